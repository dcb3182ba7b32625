"""Which recordings a person means by some paths, and which machine each is of."""

import glob
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from orchestrator.data.dcase import AUDIO_SUFFIXES, SPLIT_FOLDERS
from orchestrator.serving.answers import Recording

STDIN = "-"
MOST_BYTES = 1 << 30  # of one file: ten minutes of eight channels at 48 kHz and 32 bit are 0.9 GB
BLOCK_BYTES = 1 << 20
_SECTION = re.compile(r"(?:^|_)(?:section|id)_(\d+)(?:_|$)")


def find_recordings(paths: Sequence[str]) -> list[str]:
    """Files in the order of the paths, each once: a folder stands for all WAV and FLAC files in it, sorted.

    A path that nothing is found for stays in the list: reading it will say why.
    """
    return list(dict.fromkeys(file for path in paths for file in _files(path)))


def _files(path: str) -> Iterator[str]:
    if path == STDIN or os.path.isfile(path):
        yield path
    elif os.path.isdir(path):
        found = list(_walk(path))
        yield from found or [path]
    else:
        matches = sorted(glob.glob(path, recursive=True)) if glob.has_magic(path) else []
        for match in matches or [path]:
            yield from _files(match) if matches else [match]


def _walk(folder: str) -> Iterator[str]:
    """Visible audio files below a folder, sorted folder by folder."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
        for name in sorted(names):
            if name.lower().endswith(AUDIO_SUFFIXES) and not name.startswith("."):
                yield os.path.join(place, name)


def read_recording(path: str, known: Sequence[str], machine: str | None) -> Recording:
    """A file's bytes (at most 1 GiB) with its machine and section; the problem where they cannot be had."""
    of = machine or machine_of(path, known)
    section = section_of(path)
    try:
        if path == STDIN:
            return Recording(_read(sys.stdin.buffer), of, section)
        with open(path, "rb") as file:
            return Recording(_read(file), of, section)
    except IsADirectoryError:
        return Recording(b"", of, section, f"a folder without {' or '.join(AUDIO_SUFFIXES)} files")
    except ValueError as error:  # too large, or a null byte in the path
        return Recording(b"", of, section, str(error))
    except OSError as error:
        return Recording(b"", of, section, f"cannot read: {error.strerror}")


def _read(file: BinaryIO) -> bytes:
    """All bytes, as far as they are there: a device or a pipe may never end."""
    blocks, size = [], 0
    while block := file.read(BLOCK_BYTES):
        blocks.append(block)
        size += len(block)
        if size > MOST_BYTES:
            raise ValueError(f"more than {MOST_BYTES >> 20} MiB: cut it into recordings of at most ten minutes")
    return b"".join(blocks)


def machine_of(path: str, known: Sequence[str]) -> str | None:
    """The machine by the path: the nearest folder called like a known one, or what the challenge's layout says.

    The layout, `<machine>/train/x.wav`, also names machines that the model does not know; None where nothing is said.
    """
    folders = [] if path == STDIN else list(reversed(Path(os.path.abspath(path)).parts[:-1]))
    for folder in folders:
        if folder in known:
            return folder
    return folders[1] if len(folders) > 1 and folders[0] in SPLIT_FOLDERS else None


def section_of(path: str) -> str | None:
    """The section that a file's name tells: "00" of `section_00_source_test_normal_0001.wav`."""
    told = _SECTION.search(Path(path).stem)
    return told[1] if told else None
