"""Unpack a machine's archive so that a kill leaves nothing half and a hostile archive writes nothing elsewhere.

Whatever folders an archive wraps its clips in, they come out as `<into>/train`, `<into>/test` and so on, which is how
the rest reads them.
"""

import os
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from orchestrator.data.dcase import SPLIT_FOLDERS
from orchestrator.data.receiving import check_space, writing
from orchestrator.errors import DataError

DRIVE = re.compile(r"[A-Za-z]:")
ENCRYPTED = 1  # bit of a member's flags
BLOCK_BYTES = 1 << 20
SHADOWS = ("__MACOSX", ".DS_Store", "Thumbs.db")  # an archiver's own files, not the recordings'
BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, UnicodeDecodeError)

Parts = tuple[str, ...]


class Unpacked(NamedTuple):
    """What lies in the folder now (relative name: size in bytes), and how many of these files were written."""

    sizes: dict[str, int]
    written: int


def unpack(archive: Path, into: Path) -> Unpacked:
    """Unpack a ZIP of one machine into its folder, which appears under its name only when everything is in it.

    Files that lie there with the right size are kept, so a second call goes on where a killed one was, and repairs a
    folder from which files were lost. DataError: the archive is damaged, wants to write elsewhere, or is not one
    machine's; StorageError: the disk is full, or has less room than the archive declares.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = _members(opened.infolist(), archive)
            folder = into if into.is_dir() else into.with_name(f".{into.name}.part")
            missing = {name: info for name, info in members.items() if _size(folder / name) != info.file_size}
            with writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
            check_space(folder, sum(info.file_size for info in missing.values()))
            for name, info in missing.items():
                _write(opened, info, folder / name)
    except BROKEN as error:
        raise DataError(f"{archive} is damaged: {error}; remove it and run the same command again") from None
    if folder != into:
        with writing(into):
            os.replace(folder, into)
    return Unpacked({name: info.file_size for name, info in members.items()}, len(missing))


def _members(infos: Sequence[zipfile.ZipInfo], archive: Path) -> dict[str, zipfile.ZipInfo]:
    """The files to write, by relative name; every member is judged before the first is written."""
    for info in infos:
        if fault := _fault(info):
            raise DataError(f"{archive} is not safe to unpack, nothing was written: {info.orig_filename!r} {fault}")
    files = [(PurePosixPath(info.filename).parts, info) for info in infos if not info.is_dir()]
    files = [(parts, info) for parts, info in files if not _is_shadow(parts)]
    wrap = _wrapping([parts for parts, _ in files], archive)
    members = {"/".join(_without(parts, wrap)): info for parts, info in files}
    if len(members) < len(files):
        raise DataError(f"{archive} holds two files for one place; nothing was written")
    return members


def _fault(info: zipfile.ZipInfo) -> str:
    """Why a member may not be written, "" where it may."""
    name = info.orig_filename  # as in the archive: the library cuts names at a zero byte
    kind = stat.S_IFMT(info.external_attr >> 16)
    if name.startswith("/") or DRIVE.match(name):
        return "is an absolute path"
    if "\\" in name or "\0" in name:
        return "holds a backslash or a zero byte"
    if ".." in name.split("/"):
        return "leads out of the folder"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device"
    if info.flag_bits & ENCRYPTED:
        return "is encrypted"
    return ""


def _is_shadow(parts: Parts) -> bool:
    return any(part in SHADOWS for part in parts) or parts[-1].startswith("._")


def _wrapping(files: list[Parts], archive: Path) -> Parts:
    """The folders around the split folders: ("fan",) of fan/train/x.wav; DataError where there are several or none."""
    around = {
        parts[:place]
        for parts in files
        for place in [next((i for i, part in enumerate(parts[:-1]) if part in SPLIT_FOLDERS), None)]
        if place is not None
    }
    if not around:
        raise DataError(f"{archive} holds no folder {', '.join(SPLIT_FOLDERS)}: it is no archive of recordings")
    outer = min(around, key=len)
    if any(parts[: len(outer)] != outer for parts in around):
        names = ", ".join(sorted("/".join(parts) for parts in around))
        raise DataError(f"{archive} holds more than one machine ({names}): it is not the archive that the table means")
    return outer


def _without(parts: Parts, wrap: Parts) -> Parts:
    return parts[len(wrap) :] if parts[: len(wrap)] == wrap else parts


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def _write(opened: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> None:
    """Write a member beside its place and move it there: a file under its own name is whole.

    The library gives no byte more than the member declares, and checks its CRC at the end.
    """
    part = path.with_name(path.name + ".part")
    with writing(path), opened.open(info) as source:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as sink:
            shutil.copyfileobj(source, sink, BLOCK_BYTES)
        part.replace(path)
