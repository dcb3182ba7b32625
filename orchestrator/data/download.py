"""Fetch a large file over HTTP so that neither a dropped connection nor a killed process loses what has arrived.

Bytes go into `<name>.part` beside the target; the target's own name appears only once size and MD5 sum are right.
"""

import hashlib
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from orchestrator.data.receiving import ANY_FILE, Expected, Interrupted, Progress, Refused, receive, size_of, writing
from orchestrator.errors import DataError

LONGEST_PAUSE_SECONDS = 60.0


class Patience(NamedTuple):
    """How long a download is tried: attempts in a row that bring no new byte, first pause, and silence, in seconds."""

    attempts: int = 5
    pause_seconds: float = 1.0
    timeout_seconds: float = 30.0


PATIENCE = Patience()


def fault_of(path: Path, expected: Expected) -> str:
    """What is wrong with a file, in words that name expected and found; "" where nothing is known to be wrong."""
    size = path.stat().st_size
    if expected.size not in (None, size):
        return f"{size} bytes, expected {expected.size}"
    if expected.md5 and (found := md5_of(path)) != expected.md5:
        return f"MD5 sum {found}, expected {expected.md5}"
    return ""


def md5_of(path: Path) -> str:
    """MD5 sum of a file as 32 hex digits: a check against damage, as the records publish it, not against malice."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def part_of(target: Path) -> Path:
    """Where the bytes of an unfinished download lie."""
    return target.with_name(target.name + ".part")


def download(
    urls: Sequence[str],
    target: Path,
    expected: Expected = ANY_FILE,
    *,
    patience: Patience = PATIENCE,
    on_progress: Progress | None = None,
) -> bool:
    """Fetch `target` from the first of the URLs (mirrors of the same bytes) that gives it; True where it had to.

    A good file is left alone, a `.part` is continued. DataError names each URL's fault, StorageError a full disk; in
    both cases what has arrived is kept, but bytes whose MD5 sum is wrong are not.
    """
    if target.is_file() and not fault_of(target, expected):
        return False
    _check_schemes(urls)
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    faults = _Attempts(list(urls), part_of(target), expected, patience).until_good(on_progress)
    if faults:
        raise DataError(_why(target, faults))
    with writing(target):
        os.replace(part_of(target), target)
    return True


def fetch(url: str, name: str, patience: Patience = PATIENCE) -> bytes:
    """The body of a small answer, fetched with the same patience and not kept; `name` is for a DataError."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / name
        download([url], target, patience=patience)
        return target.read_bytes()


class _Attempts:
    """One download's tries: URLs that may still help, what was wrong with each, and how far the file came."""

    def __init__(self, urls: list[str], part: Path, expected: Expected, patience: Patience) -> None:
        self.urls, self.part, self.expected, self.patience = urls, part, expected, patience
        self.faults: dict[str, str] = {}
        self.wrong: list[str] = []  # URLs after which the sum was wrong
        self.idle = 0
        self.most = size_of(part)

    def until_good(self, on_progress: Progress | None) -> dict[str, str]:
        """Try until the part is the whole right file ({}), or nothing is left to try (each URL's fault)."""
        while self.urls and self.idle < self.patience.attempts:
            url = self.urls[0]
            resumed = size_of(self.part) > 0
            try:
                receive(url, self.part, self.expected, self.patience.timeout_seconds, on_progress)
                if not (fault := fault_of(self.part, self.expected)):
                    return {}
                self._discard(url, fault, resumed)
            except Refused as error:
                self.faults[url] = str(error)
                self.urls.remove(url)
            except Interrupted as error:
                self.faults[url] = str(error)
                self._wait(error.pause_seconds)
        return self.faults

    def _discard(self, url: str, fault: str, resumed: bool) -> None:
        """Drop wrong bytes; where a part of them was older than this answer, the URL gets one more chance."""
        self.part.unlink()
        self.most = 0
        self.faults[url] = f"wrong bytes: {fault}"
        if not resumed or url in self.wrong:
            self.urls.remove(url)
        self.wrong.append(url)

    def _wait(self, asked_seconds: float) -> None:
        """Pause, longer each time that nothing new came; the next mirror has its turn."""
        size = size_of(self.part)
        self.idle = 0 if size > self.most else self.idle + 1
        self.most = max(self.most, size)
        self.urls.append(self.urls.pop(0))
        if self.idle < self.patience.attempts:
            pause = max(asked_seconds, self.patience.pause_seconds * 2 ** max(0, self.idle - 1))
            time.sleep(min(pause, LONGEST_PAUSE_SECONDS))


def _check_schemes(urls: Sequence[str]) -> None:
    for url in urls:
        if urlsplit(url).scheme not in ("http", "https"):
            raise DataError(f"cannot download {url}: needs http:// or https://; a folder on disk is named with --from")


def _why(target: Path, faults: dict[str, str]) -> str:
    held = size_of(part_of(target))
    kept = f"{held} bytes are kept in {part_of(target)}; " if held else ""
    listed = "\n".join(f"  {url}: {fault}" for url, fault in faults.items())
    advice = "run the same command again to go on, name a mirror (--mirror URL) or a folder that has it (--from DIR)"
    return f"cannot download {target.name}:\n{listed}\n{kept}{advice}"
