"""How many clips of AudioSet's machine classes (spec §11) a user's copy holds, and which are missing.

AudioSet is published as lists of video segments; recordings vanish, so that no copy is whole. Only names, ids and
labels are read here, no audio.
"""

import csv
import io
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from orchestrator.data.audioset_classes import CANDIDATE_CLASSES
from orchestrator.data.segments import LINE, file_batches
from orchestrator.errors import DataError
from orchestrator.storage import Store

MIDS = frozenset(CANDIDATE_CLASSES.values())


class Coverage(NamedTuple):
    """Listed clips of the candidate classes: (listed, there) of each class by display name, and the missing ones."""

    classes: dict[str, tuple[int, int]]
    listed: int
    missing: dict[str, tuple[str, ...]]  # video id -> its candidate classes' mids

    @property
    def there(self) -> int:
        return self.listed - len(self.missing)


def coverage(segments: Path, *, audio: Path | None = None, parquet: Path | None = None) -> Coverage:
    """Compare a segments CSV (`YTID, start, end, "mid,mid"`) with a folder of recordings or of Parquet copies.

    Recordings are named by video id as `asd run` reads them; Parquet files hold a column video_id. A clip with several
    candidate classes counts in each. DataError names whatever cannot be read.
    """
    if (audio is None) == (parquet is None):
        raise DataError("name one copy of AudioSet: --audio DIR (files named by video id) or --parquet DIR")
    listed = dict(_candidates(segments))
    there = _ids_of_files(audio, segments) if audio else _ids_of_parquet(parquet, listed)  # type: ignore[arg-type]
    in_list = Counter(mid for mids in listed.values() for mid in mids)
    found = Counter(mid for video_id, mids in listed.items() if video_id in there for mid in mids)
    classes = {name: (in_list[mid], found[mid]) for name, mid in CANDIDATE_CLASSES.items()}
    return Coverage(classes, len(listed), {key: mids for key, mids in listed.items() if key not in there})


def _candidates(segments: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(video id, candidate mids) of the lines that carry one; the longest list has two million lines."""
    try:
        with segments.open(encoding="utf-8-sig", errors="replace") as file:
            for number, line in enumerate(file, 1):
                text = line.strip()
                if not text or text.startswith("#"):
                    continue
                match = LINE.fullmatch(text)
                if match is None:
                    raise DataError(f'{segments}:{number}: expected `YTID, start, end, "mid,mid"`, found {text[:60]!r}')
                if mids := tuple(mid for mid in match[3].split(",") if mid in MIDS):
                    yield match[1], mids
    except OSError as error:
        raise DataError(f"cannot read the segments CSV {segments}: {error.strerror}; name AudioSet's list") from None


def _ids_of_files(audio: Path, segments: Path) -> set[str]:
    local = fs.LocalFileSystem()
    batches = file_batches(local, str(audio.absolute()), local, str(segments.absolute()))
    return {video_id for batch in batches for video_id in batch["video_id"].to_pylist()}


def _ids_of_parquet(folder: Path, listed: dict[str, tuple[str, ...]]) -> set[str]:
    """Listed ids that some Parquet file below the folder holds, read column-wise and a batch at a time."""
    files = sorted(folder.rglob("*.parquet")) if folder.is_dir() else [folder]
    if not files:
        raise DataError(f"no .parquet file below {folder}; copies of AudioSet hold video_id, audio, labels")
    there: set[str] = set()
    for path in files:
        try:
            for batch in pq.ParquetFile(path).iter_batches(columns=["video_id"]):
                there.update(key for key in batch.column("video_id").to_pylist() if key in listed)
        except (OSError, KeyError, pa.ArrowException) as error:
            raise DataError(f"{path} is no Parquet file with a column video_id: {error}") from None
    return there


def write_missing(report: Coverage, path: Path) -> None:
    """Write the missing clips as CSV: video_id, and its candidate classes' mids joined by commas."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("video_id", "labels"))
    writer.writerows((video_id, ",".join(mids)) for video_id, mids in report.missing.items())
    Store.at(path.absolute().parent).write(path.name, text.getvalue().encode())
