"""The one place that reads and writes results: whole files, replaced atomically, on any pyarrow filesystem."""

import errno
import fcntl
import io
import json
import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from orchestrator.errors import StorageError


class Store(NamedTuple):
    """A folder of results. A file in it is either whole or absent: it is written beside and then renamed."""

    files: fs.FileSystem
    root: str

    @classmethod
    def at(cls, uri: str | Path) -> "Store":
        """Open a folder (made when first written to)."""
        files, root = fs.FileSystem.from_uri(str(Path(uri).absolute()))
        return cls(files, root)

    def child(self, *names: str) -> "Store":
        return Store(self.files, "/".join([self.root, *names]))

    def path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def exists(self, name: str) -> bool:
        return bool(self.files.get_file_info(self.path(name)).type == fs.FileType.File)

    def read(self, name: str) -> bytes:
        with self.files.open_input_file(self.path(name)) as source:
            return bytes(source.read())

    def write(self, name: str, data: bytes) -> None:
        """Replace a file in one step; StorageError where the folder is read-only or the disk is full."""
        part = self.path(f".{name}.{uuid.uuid4().hex[:8]}.part")
        try:
            self.files.create_dir(self.root, recursive=True)
            with self.files.open_output_stream(part) as sink:
                sink.write(data)
            self.files.move(part, self.path(name))
        except OSError as error:
            self._discard(part)
            raise StorageError(_why(self.path(name), error)) from error

    def _discard(self, part: str) -> None:
        try:
            self.files.delete_file(part)
        except OSError:
            return  # it was never made, or the disk that just failed cannot delete either: the name says it is a part

    def read_json(self, name: str) -> Any:
        return json.loads(self.read(name))

    def write_json(self, name: str, value: Any) -> None:
        self.write(name, (json.dumps(value, indent=2, sort_keys=True) + "\n").encode())

    def read_table(self, name: str) -> pa.Table:
        return pq.read_table(pa.BufferReader(self.read(name)))

    def write_table(self, name: str, table: pa.Table) -> None:
        buffer = io.BytesIO()
        pq.write_table(table, buffer)
        self.write(name, buffer.getvalue())


def _why(path: str, error: OSError) -> str:
    reason = {
        errno.EACCES: "no permission",
        errno.EROFS: "the file system is read-only",
        errno.ENOSPC: "the disk is full",
        errno.ENOTDIR: "a file stands where a folder is needed",
    }.get(error.errno or 0, str(error))
    return f"cannot write {path}: {reason}. Free space or set `storage=FOLDER`, then run the same command again"


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold a study's folder for this process; the second run of a study is refused with the first's pid and place.

    The kernel lets go of the lock when the process ends, however it ends: a file that merely exists means nothing.
    """
    lock = folder / "run.lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise StorageError(_why(str(lock), error)) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(handle, 200, 0).decode(errors="replace").strip() or "another process"
            raise StorageError(
                f"{folder} is being written by {holder}; wait for it, stop it, or set another `name=` or `storage=`"
            ) from None
        _sign(handle, lock)
        yield
    finally:
        os.close(handle)


def _sign(handle: int, lock: Path) -> None:
    """Write who holds the lock; a full disk shows here first."""
    try:
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"pid {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    except OSError as error:
        raise StorageError(_why(str(lock), error)) from error
