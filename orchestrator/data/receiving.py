"""One HTTP request that adds the missing bytes of a file to the part that is there.

A request asks for the range from the part's end on. What the server answers is judged before a byte is written: another
range, another length, or an error that time may mend or not.
"""

import errno
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.message import Message
from http.client import HTTPException, HTTPResponse
from io import FileIO
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from orchestrator.errors import StorageError

BLOCK_BYTES = 1 << 20
WORTH_WAITING = (408, 425, 429, 500, 502, 503, 504)  # HTTP answers that may be better in a while
HEADERS = {"User-Agent": "asd-orchestrator", "Accept-Encoding": "identity"}  # a compressed body has no useful ranges
_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)")

Progress = Callable[[int, int | None], object]  # bytes that are there, bytes in all (None: the server does not say)


class Expected(NamedTuple):
    """What is known of a file before it is there: size in bytes and MD5 sum (32 hex digits, "" where unknown)."""

    size: int | None = None
    md5: str = ""


ANY_FILE = Expected()


class Refused(Exception):  # noqa: N818
    """This URL will not give the file, however often it is asked."""


class Interrupted(Exception):  # noqa: N818
    """This URL may give the rest of the file later."""

    def __init__(self, reason: str, pause_seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.pause_seconds = pause_seconds


def receive(url: str, part: Path, expected: Expected, timeout_seconds: float, on_progress: Progress | None) -> None:
    """Add the rest of the file to the part with one request; returns where the server has no more to give."""
    held = size_of(part)
    if expected.size is not None and held > expected.size:
        part.unlink()
        held = 0
    if held and held == expected.size:
        return
    try:
        response = _ask(url, held, timeout_seconds)
    except HTTPError as error:
        with error:
            if error.code == 416 and _range(error.headers)[1] == held:
                return  # the part was whole already
            raise _judged(error, part) from None
    with response:
        start, total = _extent(response, held)
        if None not in (total, expected.size) and total != expected.size:
            raise Interrupted(f"offers {total} bytes, expected {expected.size}")
        _copy(response, part, start, expected.size if total is None else total, on_progress)


def _ask(url: str, held: int, timeout_seconds: float) -> HTTPResponse:
    headers = HEADERS | ({"Range": f"bytes={held}-"} if held else {})
    try:
        answer: HTTPResponse = urlopen(Request(url, headers=headers), timeout=timeout_seconds)
    except HTTPError:
        raise
    except (OSError, HTTPException) as error:
        raise Interrupted(f"no answer: {getattr(error, 'reason', error) or type(error).__name__}") from None
    return answer


def _judged(error: HTTPError, part: Path) -> Exception:
    """Whether an HTTP error is worth another try."""
    reason = f"HTTP {error.code} {error.reason}"
    if error.code == 416:  # the part is longer than the file: it belongs to another one
        part.unlink()
        return Interrupted(reason)
    if error.code not in WORTH_WAITING:
        return Refused(reason)
    after = error.headers.get("Retry-After", "")
    return Interrupted(reason, float(after) if after.isdigit() else 0.0)


def _extent(response: HTTPResponse, held: int) -> tuple[int, int | None]:
    """(first byte that is sent, bytes of the whole file or None); a server that knows no ranges sends all again."""
    sent = response.headers.get("Content-Length", "")
    length = int(sent) if sent.isdigit() else None
    if response.status == 206:
        start, total = _range(response.headers)
        if start != held:
            raise Refused(f"sends another range than asked: {response.headers.get('Content-Range')}, not from {held}")
        return held, held + length if total is None and length is not None else total
    return 0, length


def _range(headers: Message) -> tuple[int | None, int | None]:
    match = _RANGE.fullmatch(headers.get("Content-Range", ""))
    first, total = match.groups() if match else (None, None)
    return int(first) if first else None, int(total) if total and total != "*" else None


def _copy(response: HTTPResponse, part: Path, start: int, total: int | None, on_progress: Progress | None) -> None:
    """Append (or start anew) and hand every block to the kernel at once: a killed process loses none of it."""
    if total is not None:
        check_space(part.parent, total - start)
    done = start
    with writing(part):
        file = part.open("ab" if start else "wb", buffering=0)
    with file:
        while block := _block(response, done, total):
            _write(file, part, block)
            done += len(block)
            if total is not None and done > total:
                raise Refused(f"sends more than {total} bytes")
            if on_progress:
                on_progress(done, total)
    if total is not None and done < total:
        raise Interrupted(f"the connection ended after {done} of {total} bytes")


def _write(file: FileIO, part: Path, block: bytes) -> None:
    rest = memoryview(block)
    with writing(part):
        while rest:  # a disk that is nearly full takes less than it is given
            rest = rest[file.write(rest) :]


def _block(response: HTTPResponse, done: int, total: int | None) -> bytes:
    try:
        return response.read1(BLOCK_BYTES)
    except (OSError, HTTPException) as error:
        raise Interrupted(f"the connection broke after {done} of {total or 'unknown'} bytes: {error}") from None


def check_space(folder: Path, needed_bytes: int) -> None:
    """StorageError where a folder's disk has less room than is about to be written."""
    free = shutil.disk_usage(folder).free
    if needed_bytes > free:
        raise StorageError(
            f"{folder} needs {needed_bytes:,} more bytes, its disk has {free:,}: free some, or name another folder "
            "with --into DIR; what has arrived is kept"
        )


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the disk refuses into a StorageError that says where and what to do."""
    try:
        yield
    except OSError as error:
        reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
        raise StorageError(
            f"cannot write {path}: {reason}. Free space, or name another folder with --into DIR, and run the same "
            "command again: what has arrived is kept"
        ) from error


def size_of(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0
