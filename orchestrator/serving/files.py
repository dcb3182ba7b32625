"""Checks on a bundle's files before anything is made of them: a bundle may come from anywhere."""

import hashlib
import io
import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from orchestrator.serving.manifest import BundleError, FileEntry
from orchestrator.storage import Store

AGAIN = "copy or export the model again"
HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
MOST_DIMENSIONS = 2


def file_facts(path: Path) -> FileEntry:
    """Size and SHA-256 of a file."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return FileEntry(bytes=path.stat().st_size, sha256=sha256)


def check_file(folder: Path, name: str, facts: FileEntry | None) -> Path:
    """The path of a file that lies in the folder and is what the manifest says; else BundleError."""
    path = folder / name
    if facts is None:
        raise BundleError(f"{folder}: the manifest does not list {name}; {AGAIN}")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise BundleError(f"{path} is a link that leaves the model's folder; {AGAIN}")
    if not path.is_file():
        raise BundleError(f"{path} is missing; {AGAIN}")
    found = path.stat().st_size
    if found != facts.bytes:
        raise BundleError(f"{path} has {found} bytes, the manifest says {facts.bytes}; {AGAIN}")
    if file_facts(path) != facts:
        raise BundleError(f"{path} is not the file that the manifest describes (SHA-256 differs); {AGAIN}")
    check_archive(path)
    return path


def check_archive(path: Path) -> None:
    """Refuse a ZIP file (.pt, .npz) that would unpack to more than it holds, and .npz headers that promise more."""
    with _opened(path) as archive:
        parts = archive.infolist()
        packed = [part.filename for part in parts if part.compress_type != zipfile.ZIP_STORED]
        if packed or sum(part.file_size for part in parts) > path.stat().st_size:
            raise BundleError(f"{path}: its parts unpack to more than the file holds; refused")
        if path.suffix != ".npz":
            return
        for part in parts:
            with archive.open(part) as array:
                _check_array(path, part, array)


def _check_array(path: Path, part: zipfile.ZipInfo, array: IO[bytes]) -> None:
    """Refuse an array by its header alone: numpy would allocate what it promises."""
    shape, _, dtype = HEADERS[npy.read_magic(array)](array)
    promised = math.prod(shape) * dtype.itemsize
    if dtype.kind != "f" or len(shape) > MOST_DIMENSIONS or min(shape, default=0) < 0:
        raise BundleError(f"{path}: {part.filename} is {dtype} of shape {shape}, not a table of floats; refused")
    if promised != part.file_size - array.tell():
        raise BundleError(f"{path}: {part.filename} of shape {shape} promises {promised} bytes; refused")


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, ValueError, KeyError, EOFError, NotImplementedError, RuntimeError) as error:
        if isinstance(error, BundleError):
            raise
        raise BundleError(f"{path} is damaged: {error}; {AGAIN}") from None


def read_arrays(folder: Store, name: str) -> dict[str, NDArray]:
    """The arrays of a checked .npz file."""
    with np.load(io.BytesIO(folder.read(name)), allow_pickle=False) as kept:
        return {name: kept[name] for name in kept.files}
