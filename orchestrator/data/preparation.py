"""Bring the recordings of a year of DCASE Task 2 into one folder that a study can name as its `data.root`.

DIR/<subset>/<machine>/{train,test,...}   recordings; beside it .<machine>.json says which archive they came from
DIR/archives/record_<number>.json         what the record publishes: names, sizes, MD5 sums
DIR/archives/<number>/<name>.zip          the archives, .part while they arrive
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from orchestrator.data.archives import API, Archive, Records, place_of
from orchestrator.data.download import PATIENCE, Patience, download, fault_of, md5_of, part_of
from orchestrator.data.receiving import ANY_FILE, Expected, size_of
from orchestrator.data.unpacking import unpack
from orchestrator.errors import DataError
from orchestrator.lock import only_writer
from orchestrator.storage import Store

BRIEF_PATIENCE = Patience(attempts=1, timeout_seconds=10.0)  # for metadata that one can do without

UNPACKED, THERE, PARTLY, MISSING, BROKEN = "unpacked", "archive there", "partly there", "missing", "broken"

Progress = Callable[[Archive, int, int | None], object]  # archive, bytes that are there, bytes in all


class Sources(NamedTuple):
    """Where archives come from.

    `folder`: archives that the user has; then nothing is downloaded. `mirrors` are asked before the archive's own URL.
    `unchecked` lets a download in whose MD5 sum cannot be had.
    """

    folder: Path | None = None
    mirrors: Sequence[str] = ()
    api: str = API
    unchecked: bool = False
    patience: Patience = PATIENCE

    def records(self, into: Path, *, keep: bool) -> Records:
        """The metadata of the records: kept earlier, lying with the user's archives, or from the API."""
        folders = [into / "archives", *([self.folder] if self.folder else [])]
        patience = self.patience if keep and not self.folder else BRIEF_PATIENCE
        return Records(folders, self.api, patience=patience, keep=into / "archives" if keep else None)


class Prepared(NamedTuple):
    """How an archive stands: UNPACKED, THERE, PARTLY, MISSING or BROKEN; `size` in bytes, None where unknown."""

    archive: Archive
    state: str
    size: int | None
    note: str = ""


class _MissingArchive(DataError):  # noqa: N818
    """The archive cannot be had; nothing that is there is wrong."""


def home_of(archive: Archive, into: Path) -> Path:
    """The machine's folder of recordings."""
    return into / archive.subset / archive.machine


def look(archives: Sequence[Archive], into: Path, sources: Sources) -> list[Prepared]:
    """What is there of each archive, and how large it is; writes nothing."""
    records = sources.records(into, keep=False)
    return [_look(archive, into, sources, records) for archive in archives]


def _look(archive: Archive, into: Path, sources: Sources, records: Records) -> Prepared:
    try:
        expected = records.expected(archive)
        size = expected.size if expected else None
        note = "" if expected else "size and MD5 sum unknown, the record's metadata could not be had"
        if kept := _read_manifest(archive, into):
            damage = _damage(kept, home_of(archive, into))
            return Prepared(archive, BROKEN if damage else UNPACKED, size, damage)
        path = _find(archive, into, sources)
        if path.is_file():
            fault = f"{path}: {size_of(path)} bytes" if size not in (None, size_of(path)) else ""
            return Prepared(archive, BROKEN if fault else THERE, size, fault or note)
        held = size_of(part_of(path))
        return Prepared(archive, PARTLY if held else MISSING, size, f"{held} bytes arrived" if held else note)
    except DataError as error:
        return Prepared(archive, BROKEN, None, str(error))


def prepare(
    archives: Sequence[Archive],
    into: Path,
    sources: Sources,
    *,
    keep_archives: bool = True,
    on_progress: Progress | None = None,
    on_done: Callable[[Prepared], object] | None = None,
) -> list[Prepared]:
    """Fetch, check and unpack archives one after another; what is unpacked already is not touched.

    An archive that cannot be had or is damaged becomes a row that says so, the others go on. StorageError (a full
    disk, another `asd prepare` in the same folder) ends it. Without `keep_archives` a downloaded archive is deleted
    once it is unpacked; those of the user's folder never are.
    """
    done: list[Prepared] = []
    with only_writer(Store.at(into)):
        records = sources.records(into, keep=True)
        for archive in archives:
            row = _prepare(archive, into, sources, records, keep_archives, on_progress)
            done.append(row)
            if on_done:
                on_done(row)
    return done


def _prepare(
    archive: Archive, into: Path, sources: Sources, records: Records, keep: bool, on_progress: Progress | None
) -> Prepared:
    size = None
    try:
        kept = _read_manifest(archive, into)
        if kept and not _damage(kept, home_of(archive, into)):
            return Prepared(archive, UNPACKED, kept["archive_bytes"], _doubt(kept, archive, records))
        expected = records.expected(archive)
        size = expected.size if expected else None
        path = _obtain(archive, into, sources, expected, records, on_progress)
        unpacked = unpack(path, home_of(archive, into))
        kept = _write_manifest(archive, into, path, expected, unpacked.sizes)
        if not keep and sources.folder is None:
            path.unlink()
        return Prepared(archive, UNPACKED, kept["archive_bytes"], _doubt(kept, archive, records))
    except _MissingArchive as error:
        return Prepared(archive, MISSING, size, str(error))
    except DataError as error:
        return Prepared(archive, BROKEN, size, str(error))


def _obtain(
    archive: Archive,
    into: Path,
    sources: Sources,
    expected: Expected | None,
    records: Records,
    on_progress: Progress | None,
) -> Path:
    """The archive as a checked file: from the user's folder, or downloaded."""
    path = _find(archive, into, sources)
    if sources.folder is not None:
        if not path.is_file():
            raise _MissingArchive(f"not in {sources.folder}; put it there, or leave --from out to download it")
        if fault := fault_of(path, expected or ANY_FILE):
            raise DataError(f"{path}: {fault}; copy it again")
        return path
    if expected is None and not sources.unchecked:
        raise _MissingArchive(
            f"no MD5 sum to check it by: {records.faults[archive.record]}\nsave the metadata from "
            f"{sources.api}/records/{archive.record} as {into}/archives/record_{archive.record}.json, or accept it "
            "with --unchecked"
        )
    urls = list(dict.fromkeys([*(place_of(archive, mirror) for mirror in sources.mirrors), archive.url]))
    report = (lambda done, total: on_progress(archive, done, total)) if on_progress else None
    try:
        download(urls, path, expected or ANY_FILE, patience=sources.patience, on_progress=report)
    except DataError as error:
        raise _MissingArchive(str(error)) from None
    return path


def _find(archive: Archive, into: Path, sources: Sources) -> Path:
    """Where the archive lies or will lie; in a user's folder also below the number of its record."""
    if sources.folder is None:
        return into / "archives" / archive.record / archive.file_name
    nested = sources.folder / archive.record / archive.file_name
    return nested if nested.is_file() else sources.folder / archive.file_name


def _manifest_name(archive: Archive) -> str:
    return f".{archive.machine}.json"


def _read_manifest(archive: Archive, into: Path) -> dict[str, Any] | None:
    """What was unpacked here; DataError where it came from another record: years do not mix in one folder."""
    path = into / archive.subset / _manifest_name(archive)
    try:
        kept = json.loads(path.read_text()) if path.is_file() else None
        if kept is None or (kept["record"], kept["archive"]) == (archive.record, archive.file_name):
            return kept
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{path} is not ours or damaged; remove it, and unpacked files are compared anew") from None
    raise DataError(
        f"{home_of(archive, into)} holds {kept['archive']} of record {kept['record']}, asked was {archive.file_name} "
        f"of record {archive.record}; name another folder with --into DIR"
    )


def _write_manifest(
    archive: Archive, into: Path, path: Path, expected: Expected | None, sizes: dict[str, int]
) -> dict[str, Any]:
    kept = {
        "archive": archive.file_name,
        "record": archive.record,
        "archive_bytes": path.stat().st_size,
        "md5": expected.md5 if expected else md5_of(path),
        "checked": expected is not None,
        "files": sizes,
    }
    Store.at(into / archive.subset).write_json(_manifest_name(archive), kept)
    return kept


def _damage(kept: dict[str, Any], home: Path) -> str:
    """What is missing of an unpacked archive, by names and sizes; "" where all is there."""
    lost = [name for name, size in kept["files"].items() if not _has_size(home / name, size)]
    return f"{len(lost)} of {len(kept['files'])} files lost or of another size, first {home / lost[0]}" if lost else ""


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _doubt(kept: dict[str, Any], archive: Archive, records: Records) -> str:
    """A remark on an archive that was not checked; DataError where the published sum is now known to differ."""
    if kept["checked"]:
        return ""
    expected = records.expected(archive)
    if expected is None:
        return "MD5 sum not checked: the record's metadata could not be had"
    if expected.md5 != kept["md5"]:
        raise DataError(
            f"was unpacked from an archive of MD5 sum {kept['md5']}, the record publishes {expected.md5}: remove its "
            "folder and archive and run the same command again"
        )
    return ""
