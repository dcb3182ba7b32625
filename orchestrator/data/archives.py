"""Which archives make up a year of DCASE Task 2, where they lie, and what their records publish about them.

The table (configs/data/dcase.csv: year, subset, machine, url) is plain data. Sizes and MD5 sums are not in it: each
archive's record publishes them in its metadata, which is asked for once and kept.
"""

import csv
import json
import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from orchestrator.data.download import PATIENCE, Patience, fetch
from orchestrator.data.receiving import Expected, writing
from orchestrator.errors import DataError

TABLE = Path(__file__).resolve().parents[2] / "configs" / "data" / "dcase.csv"
API = "https://zenodo.org/api"
COLUMNS = ("year", "subset", "machine", "url")
# Development machines, training clips of the additional machines (or sections), and the evaluation's test clips.
SUBSETS = ("dev", "additional", "eval")
URL = re.compile(r"https?://\S+/records?/(?P<record>\d+)/files/(?P<file>[^/?#\s]+\.zip)")
NAME = re.compile(r"[A-Za-z0-9][\w.-]*")  # becomes a folder's name


class Archive(NamedTuple):
    """One ZIP file: the clips of one machine in one subset of one year."""

    year: int
    subset: str
    machine: str
    url: str

    @property
    def record(self) -> str:
        """The number of the record that publishes it."""
        return self._part("record")

    @property
    def file_name(self) -> str:
        return self._part("file")

    def _part(self, name: str) -> str:
        match = URL.fullmatch(self.url)
        assert match, "read_archives lets no other URL in"
        return match[name]


def read_archives(path: Path = TABLE) -> list[Archive]:
    """Read the table of archives; DataError names every line that is wrong."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows = [(reader.line_num, row) for row in reader]
            header = tuple(reader.fieldnames or ())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read the table of archives {path} ({error}); name one with --table FILE") from None
    if header != COLUMNS:
        raise DataError(f"{path}:1: columns are {', '.join(header) or 'missing'}; needed: {', '.join(COLUMNS)}")
    archives = [_archive(row) for _, row in rows]
    faults = [f"{path}:{line}: {fault}" for (line, _), fault in zip(rows, archives, strict=True) if type(fault) is str]
    if faults:
        raise DataError("\n".join(faults))
    return [archive for archive in archives if isinstance(archive, Archive)]


def _archive(row: dict[str, str]) -> Archive | str:
    """A row of the table, or what is wrong with it."""
    year, subset, machine, url = (row.get(name) or "" for name in COLUMNS)
    if not re.fullmatch(r"20\d\d", year):
        return f"year is {year!r}; valid: 2024"
    if subset not in SUBSETS:
        return f"subset is {subset!r}; valid: {', '.join(SUBSETS)}"
    if not NAME.fullmatch(machine):
        return f"machine is {machine!r}; valid: a folder's name such as ToyCar"
    if not URL.fullmatch(url):
        return f"url is {url!r}; valid: https://HOST/records/NUMBER/files/NAME.zip"
    return Archive(int(year), subset, machine, url)


def choose(
    archives: Sequence[Archive], year: int, subsets: Sequence[str], machines: Sequence[str] = ()
) -> list[Archive]:
    """The archives of a year's subsets, of all machines or of those named; DataError lists what would be valid."""
    of_year = [archive for archive in archives if archive.year == year]
    _check_known("year", [str(year)], {str(archive.year) for archive in archives})
    _check_known("subset", subsets, {archive.subset for archive in of_year})
    of_subsets = [archive for archive in of_year if archive.subset in subsets]
    _check_known("machine", machines, {archive.machine for archive in of_subsets})
    return [archive for archive in of_subsets if not machines or archive.machine in machines]


def _check_known(what: str, asked: Iterable[str], valid: set[str]) -> None:
    for name in asked:
        if name not in valid:
            lower = {known.lower(): known for known in valid}
            near = get_close_matches(name.lower(), lower, 1)
            hint = f"; did you mean {lower[near[0]]}?" if near else "."
            raise DataError(f"no {what} {name!r} in the table of archives{hint} There are: {', '.join(sorted(valid))}")


def place_of(archive: Archive, mirror: str = "") -> str:
    """Where to download an archive: its own URL, or a mirror's.

    A mirror is the URL of a folder that holds the archives by name, or a pattern such as https://HOST/{record}/{file}.
    """
    if not mirror:
        return archive.url
    if "{" in mirror:
        return mirror.replace("{record}", archive.record).replace("{file}", archive.file_name)
    return f"{mirror.rstrip('/')}/{archive.file_name}"


def read_record(text: bytes, source: str) -> dict[str, Expected]:
    """Size and MD5 sum of each file that a record's metadata lists; `source` names it in a DataError."""
    try:
        value: Any = json.loads(text)
        return {entry["key"]: Expected(int(entry["size"]), _md5(entry["checksum"])) for entry in value["files"]}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{source} is not a record's metadata (files with key, size, checksum): {type(error).__name__}: {error}"
        ) from None


def _md5(checksum: str) -> str:
    match = re.fullmatch(r"(?:md5:)?([0-9a-f]{32})", checksum.lower())
    if match is None:
        raise ValueError(f"checksum {checksum!r} is no MD5 sum")
    return match[1]


class Records:
    """What records publish of their files, each asked for once: kept in a folder, else from the records API."""

    def __init__(
        self, folders: Sequence[Path], api: str = API, *, patience: Patience = PATIENCE, keep: Path | None = None
    ) -> None:
        self.folders, self.api, self.patience, self.keep = folders, api.rstrip("/"), patience, keep
        self.known: dict[str, dict[str, Expected]] = {}
        self.faults: dict[str, str] = {}  # records without metadata, and why

    def expected(self, archive: Archive) -> Expected | None:
        """Size and sum of an archive, None where no metadata can be had; DataError where its record has no such file.

        `faults` then says why there is none.
        """
        record = archive.record
        if record not in self.known and record not in self.faults:
            try:
                self.known[record] = self._load(record)
            except DataError as error:
                self.faults[record] = str(error)
        if record in self.faults:
            return None
        if archive.file_name not in self.known[record]:
            listed = ", ".join(sorted(self.known[record])) or "none"
            raise DataError(f"record {record} has no file {archive.file_name}; it has: {listed}")
        return self.known[record][archive.file_name]

    def _load(self, record: str) -> dict[str, Expected]:
        name = f"record_{record}.json"
        for path in (folder / name for folder in self.folders):
            if path.is_file():
                return read_record(path.read_bytes(), str(path))
        url = f"{self.api}/records/{record}"
        text = fetch(url, name, self.patience)
        files = read_record(text, url)
        if self.keep is not None:
            with writing(self.keep / name):
                self.keep.mkdir(parents=True, exist_ok=True)
                part = self.keep / f"{name}.part"
                part.write_bytes(text)
                part.replace(self.keep / name)
        return files
