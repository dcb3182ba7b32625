"""The one place that reads and writes results: whole files, replaced atomically, on any pyarrow filesystem."""

import errno
import io
import json
import os
import re
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from orchestrator.errors import StorageError, first_line


def locate(place: str | Path) -> tuple[fs.FileSystem, str]:
    """The file system of a local path or a URI such as s3://bucket/folder, and the path in it.

    S3 takes credentials, region and endpoint from the AWS_* variables of the process that asks. StorageError where the
    URI is of no known kind, or its server does not answer.
    """
    if is_local(place):
        return fs.LocalFileSystem(), _path(place)
    scheme, _, rest = str(place).partition("://")
    bucket, _, path = rest.partition("/")
    return _file_system(f"{scheme}://{bucket}", os.environ.get("AWS_ENDPOINT_URL")), f"{bucket}/{path}".rstrip("/")


def is_local(place: str | Path) -> bool:
    return isinstance(place, Path) or "://" not in place or place.startswith("file://")


def _path(place: str | Path) -> str:
    return str(Path(str(place).removeprefix("file://")).expanduser().absolute())


@cache
def _file_system(bucket: str, server: str | None) -> fs.FileSystem:
    """One connection a process and bucket; `server` is what Arrow reads from the environment."""
    try:
        with explain_fault("open", bucket):
            return fs.FileSystem.from_uri(bucket)[0]
    except (ValueError, pa.ArrowException) as error:
        raise StorageError(f"{bucket} is no place that we can open: {error}; valid: a folder, s3://, gs://") from error


def read_file(place: str | Path) -> bytes:
    """All bytes of a file on any file system; OSError where that is impossible."""
    if is_local(place):
        return Path(_path(place)).read_bytes()
    files, path = locate(place)
    with files.open_input_file(path) as source:
        return bytes(source.read())


class Store(NamedTuple):
    """A folder of results, on any file system. A file in it is either whole or absent."""

    files: fs.FileSystem
    root: str
    scheme: str = ""  # of a URI; empty for a local folder

    @classmethod
    def at(cls, place: str | Path) -> "Store":
        """Open a folder (made when first written to)."""
        scheme = "" if is_local(place) else str(place).partition("://")[0]
        return cls(*locate(place), scheme)

    @property
    def uri(self) -> str:
        """What a person calls it, and what `at` takes."""
        return f"{self.scheme}://{self.root}" if self.scheme else self.root

    def child(self, *names: str) -> "Store":
        return Store(self.files, "/".join([self.root, *names]), self.scheme)

    def path(self, name: str) -> str:
        return f"{self.root}/{name}"

    @property
    def is_local(self) -> bool:
        return not self.scheme

    def exists(self, name: str) -> bool:
        with explain_fault("look at", self.uri):
            return bool(self.files.get_file_info(self.path(name)).type == fs.FileType.File)

    def names(self) -> set[str]:
        """What the folder holds, by name; nothing where there is no folder."""
        with explain_fault("list", self.uri):
            found = self.files.get_file_info(fs.FileSelector(self.root, allow_not_found=True))
        return {info.base_name for info in found}

    def read(self, name: str) -> bytes:
        """All bytes of a file; FileNotFoundError where there is none."""
        told = explain_fault("read", f"{self.uri}/{name}", but=(FileNotFoundError,))
        with told, self.files.open_input_file(self.path(name)) as source:
            return bytes(source.read())

    def write(self, name: str, data: bytes) -> None:
        """Replace a file in one step; StorageError where the place is read-only, full or out of reach."""
        self.write_by(name, lambda sink: sink.write(data))

    def write_by(self, name: str, fill: Callable[[Any], object]) -> None:
        """The same, with what `fill` writes into the open file."""
        with explain_fault("write", f"{self.uri}/{name}"):
            if self.is_local:
                self._write_beside(name, fill)
                return
            whole = io.BytesIO()  # a file is seen when its stream is closed, filled to the end or not
            fill(whole)
            with self.files.open_output_stream(self.path(name)) as sink:
                sink.write(whole.getbuffer())

    def _write_beside(self, name: str, fill: Callable[[Any], object]) -> None:
        part = self.path(f".{name}.{uuid.uuid4().hex[:8]}.part")
        try:
            self.files.create_dir(self.root, recursive=True)
            with self.files.open_output_stream(part) as sink:
                fill(sink)
            self.files.move(part, self.path(name))
        except OSError:
            self._discard(part)
            raise

    def remove(self, name: str) -> None:
        """Delete a file, where it is there."""
        with explain_fault("delete", f"{self.uri}/{name}"), suppress(FileNotFoundError):
            self.files.delete_file(self.path(name))

    def _discard(self, part: str) -> None:
        with suppress(OSError):  # it was never made, or the disk that just failed cannot delete either: it is a .part
            self.files.delete_file(part)

    def local_copies(self, names: Iterable[str], into: Path) -> list[Path]:
        """Files as local paths: themselves, or copies in the folder `into`."""
        if self.is_local:
            return [Path(self.path(name)) for name in names]
        for name in names:
            (into / name).write_bytes(self.read(name))
        return [into / name for name in names]

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


RESULTS_REMEDY = "Mend it or set `storage=FOLDER`, then run the same command again"


@contextmanager
def explain_fault(
    verb: str, place: str, but: tuple[type[OSError], ...] = (), remedy: str = RESULTS_REMEDY
) -> Iterator[None]:
    """What a file system says, as a StorageError with a remedy; errors in `but` stay what they are."""
    try:
        yield
    except but:
        raise
    except OSError as error:
        raise StorageError(f"cannot {verb} {place}: {_why(error)}. {remedy}") from error


AWS = {
    "NETWORK_CONNECTION": "no server answers at the address: check AWS_ENDPOINT_URL, and that the server is up",
    "NO_SUCH_BUCKET": "there is no such bucket; make it first",
    "ACCESS_DENIED": "no permission for these credentials",
    "INVALID_ACCESS_KEY_ID": "wrong credentials; is AWS_ACCESS_KEY_ID right?",
    "SIGNATURE_DOES_NOT_MATCH": "wrong credentials; is AWS_SECRET_ACCESS_KEY right?",
}


def _why(error: OSError) -> str:
    reason = {
        errno.EACCES: "no permission",
        errno.EROFS: "the file system is read-only",
        errno.ENOSPC: "the disk is full",
        errno.ENOTDIR: "a file stands where a folder is needed",
    }.get(error.errno or 0)
    told = re.search(r"AWS Error (\w+)", str(error))
    return reason or (AWS.get(told[1]) if told else None) or error.strerror or first_line(error)
