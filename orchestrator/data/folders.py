"""What folders of recordings hold, on a disk or in an object store."""

import os
import posixpath
from pathlib import Path
from typing import NamedTuple

from pyarrow import fs

from orchestrator.storage import explain_fault, is_local, locate

REMEDY = "Make it readable, or name another place, and run the same command again"


class Entry(NamedTuple):
    """A file or a folder in a folder."""

    name: str
    path: str  # or a URI
    is_folder: bool
    size_bytes: int = -1
    mtime_ns: int = -1
    problem: str = ""  # why size and time are unknown


def list_folder(folder: str) -> list[Entry]:
    """What a folder holds; StorageError where it cannot be listed."""
    with explain_fault("list", folder, remedy=REMEDY):
        return _on_disk(folder) if is_local(folder) else _in_store(folder)


def is_folder(folder: str | Path) -> bool:
    """StorageError where that cannot be told."""
    with explain_fault("look at", str(folder), remedy=REMEDY):
        if is_local(folder):
            return Path(folder).is_dir()
        files, path = locate(folder)
        return bool(files.get_file_info(path).type == fs.FileType.Directory)


def real_place(folder: str) -> str:
    """The same for two names of one folder."""
    return os.path.realpath(folder) if is_local(folder) else folder


def _on_disk(folder: str) -> list[Entry]:
    return [_disk_entry(entry) for entry in os.scandir(folder)]


def _disk_entry(entry: os.DirEntry[str]) -> Entry:
    if entry.is_dir():
        return Entry(entry.name, entry.path, True)
    try:
        status = entry.stat()
    except OSError as error:  # for example a link whose target is gone
        return Entry(entry.name, entry.path, False, problem=f"cannot read: {error.strerror}")
    return Entry(entry.name, entry.path, False, status.st_size, status.st_mtime_ns)


def _in_store(folder: str) -> list[Entry]:
    files, path = locate(folder)
    return [
        Entry(
            info.base_name,
            posixpath.join(folder, info.base_name),
            info.type == fs.FileType.Directory,
            info.size if info.is_file else -1,
            info.mtime_ns if info.is_file else -1,
        )
        for info in files.get_file_info(fs.FileSelector(path))
        if info.base_name
    ]
