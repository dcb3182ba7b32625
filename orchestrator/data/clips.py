"""The clip table: one row for every recording, with what its name, its samples and the released truth say about it."""

import hashlib
import json
import os
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from orchestrator.data.audio import SAMPLE_RATE, BadClip, DecodedClip, decode
from orchestrator.data.dcase import FOUND_SCHEMA, NO_ATTRIBUTE, find_clips
from orchestrator.errors import DataError, StorageError, first_line
from orchestrator.storage import is_local, read_file

# FOUND_SCHEMA plus: blake2b (16 bytes, hex) of the int16 samples at 16 kHz; the file's own rate (Hz) and number of
# channels; the number of samples at 16 kHz. `problem` is empty where the clip is usable.
_AUDIO = (("digest", pa.string()), ("sample_rate", pa.int32()), ("channels", pa.int32()), ("samples", pa.int64()))
CLIP_SCHEMA = pa.schema([*list(FOUND_SCHEMA)[:-1], *_AUDIO, FOUND_SCHEMA.field("problem")])
CHUNK_CLIPS = 32  # read by one thread at a time: about 10 MB of samples
FAR_READERS = 16
LISTED = 20  # faults that a message names before it only counts

Row = dict[str, Any]


def read_clips(rows: pa.Table, min_seconds: float) -> tuple[pa.Table, list[NDArray[np.int16]]]:
    """Decode a chunk of clips: the rows with their audio columns filled, and each one's int16 samples at 16 kHz.

    Takes rows of FOUND_SCHEMA or CLIP_SCHEMA and returns CLIP_SCHEMA in the same order. A clip that cannot be used
    (min_seconds is the shortest allowed) gets a problem and an empty array. Safe in any thread or process.
    """
    read = _read_rows(rows.to_pylist(), min_seconds)
    return pa.Table.from_pylist([row for row, _ in read], schema=CLIP_SCHEMA), [samples for _, samples in read]


def _read_rows(rows: list[Row], min_seconds: float) -> list[tuple[Row, NDArray[np.int16]]]:
    if all(is_local(row["path"]) for row in rows):
        return [_read_row(row, min_seconds) for row in rows]
    with ThreadPoolExecutor(FAR_READERS) as pool:  # an object store's answers are waited for together
        return list(pool.map(lambda row: _read_row(row, min_seconds), rows))


def _read_row(row: Row, min_seconds: float) -> tuple[Row, NDArray[np.int16]]:
    problem = row["problem"]
    try:
        if not problem.startswith("name:"):
            return _filled(row, decode(read_file(row["path"]), row["file_name"], min_seconds))
    except BadClip as error:
        problem = error.reason
    except OSError as error:
        problem = f"cannot read: {error.strerror or first_line(error)}"
    blank = {"digest": "", "sample_rate": 0, "channels": 0, "samples": 0, "problem": problem}
    return row | blank, np.empty(0, np.int16)


def _filled(row: Row, clip: DecodedClip) -> tuple[Row, NDArray[np.int16]]:
    digest = hashlib.blake2b(clip.samples.astype("<i2", copy=False).tobytes(), digest_size=16).hexdigest()
    facts = {"sample_rate": clip.sample_rate, "channels": clip.channels, "samples": len(clip.samples)}
    return row | facts | {"digest": digest, "problem": ""}, clip.samples


def scan(
    roots: Sequence[str | Path],
    min_seconds: float = 0.1,
    known: pa.Table | None = None,
    workers: int = 2,
    on_progress: Callable[[int, int], object] | None = None,
    on_note: Callable[[str], object] | None = None,
) -> pa.Table:
    """Find and check every clip of the roots: a table in CLIP_SCHEMA sorted by clip_id, bad clips included.

    Usable rows of `known` (an earlier scan) whose path, size and time stamp still hold are taken without reading.
    `on_progress(done, total)` counts clips; `on_note` gets a sentence for everything left aside.
    """
    found, notes = find_clips(roots)
    if on_note:
        list(map(on_note, notes))
    rows = found.to_pylist()
    kept = _unchanged(rows, known, min_seconds)
    todo = pa.Table.from_pylist([row for row in rows if row["path"] not in kept], schema=FOUND_SCHEMA)
    chunks = [todo.slice(start, CHUNK_CLIPS) for start in range(0, len(todo), CHUNK_CLIPS)]
    done = [pa.Table.from_pylist(list(kept.values()), schema=CLIP_SCHEMA)]
    with ThreadPoolExecutor(workers) as pool:
        for table in pool.map(lambda chunk: read_clips(chunk, min_seconds)[0], chunks):
            done.append(table)
            if on_progress:
                on_progress(sum(map(len, done)), len(rows))
    return pa.concat_tables(done).sort_by("clip_id").combine_chunks()


def _unchanged(rows: list[Row], known: pa.Table | None, min_seconds: float) -> dict[str, Row]:
    """Rows (by path) whose audio columns an earlier scan knows; names are always parsed anew, bad clips read anew."""
    stamps = {
        (old["path"], old["size_bytes"], old["mtime_ns"]): {name: old[name] for name, _ in _AUDIO}
        for old in (known.to_pylist() if known is not None else [])
        if not old["problem"] and old["samples"] >= min_seconds * SAMPLE_RATE
    }
    stamped = [(row, stamps.get((row["path"], row["size_bytes"], row["mtime_ns"]))) for row in rows]
    return {row["path"]: row | audio for row, audio in stamped if audio and not row["problem"]}


def join_truth(clips: pa.Table, truth: pa.Table) -> pa.Table:
    """Fill label and domain of test clips from a released truth: machine, file_name, is_anomaly, is_target.

    Files are matched by name without suffix. DataError lists truth rows without a clip, truth rows that contradict
    each other, and those that contradict what a file's name says. Clips without a truth row stay as they are.
    """
    rows = clips.to_pylist()
    tests = {(row["machine"], Path(row["file_name"]).stem): row for row in rows if row["split"] == "test"}
    faults: list[str] = []
    seen: dict[tuple[str, str], tuple[bool, bool]] = {}
    for entry in truth.to_pylist():
        key = (entry["machine"], Path(entry["file_name"]).stem)
        told = (entry["is_anomaly"], entry["is_target"])
        if seen.setdefault(key, told) != told:
            faults.append(f"{'/'.join(key)}: two truth rows that contradict each other")
        elif key not in tests:
            faults.append(f"{'/'.join(key)}: no such test clip")
        else:
            faults.extend(_fill(tests[key], "label", "anomaly" if entry["is_anomaly"] else "normal"))
            faults.extend(_fill(tests[key], "domain", "target" if entry["is_target"] else "source"))
    if faults:
        what = f"the truth does not fit the clips in {len(faults)} places; compare it with the test folders"
        raise DataError(f"{what}:\n{_listed(faults)}")
    return pa.Table.from_pylist(rows, schema=CLIP_SCHEMA)


def _fill(row: Row, column: str, value: str) -> list[str]:
    if row[column] not in ("unknown", value):
        return [f"{row['clip_id']}: the truth says {value}, its name says {row[column]}"]
    row[column] = value
    return []


def check(clips: pa.Table, max_bad_clips: int = 0) -> pa.Table:
    """Let a run start only on data that is whole: returns the usable rows.

    DataError lists every bad clip with its reason where there are more than `max_bad_clips`, and names test sections
    that no training clip covers.
    """
    rows = clips.to_pylist()
    bad = [f"{row['path']}: {row['problem']}" for row in rows if row["problem"]]
    if len(bad) > max_bad_clips:
        raise DataError(
            f"{len(bad)} clips cannot be used, {max_bad_clips} are allowed; repair or remove them, or accept the loss "
            f"with data.max_bad_clips={len(bad)}:\n{_listed(bad)}"
        )
    usable = [row for row in rows if not row["problem"]]
    sections = {(row["split"], f"{row['machine']} section_{row['section']}") for row in usable}
    trained = {section for split, section in sections if split == "train"}
    if not trained:
        raise DataError("no usable training clip: add the folder that holds the machines' train folders to data.root")
    if missing := sorted({section for _, section in sections} - trained):
        raise DataError(
            f"test clips without any training clip of their section: {', '.join(missing)}; add the folder that holds "
            "their training clips to data.root, or leave these test folders out"
        )
    return pa.Table.from_pylist(usable, schema=CLIP_SCHEMA)


def _listed(faults: list[str]) -> str:
    rest = [f"... and {len(faults) - LISTED} more"] if len(faults) > LISTED else []
    return "\n".join(f"  {line}" for line in faults[:LISTED] + rest)


def fingerprint(clips: pa.Table) -> str:
    """Identity of the data (32 hex digits): contents, split, domain and attribute, whatever the order or folder."""
    columns = [clips[name].to_pylist() for name in ("clip_id", "digest", "split", "domain", "attribute")]
    return hashlib.blake2b(json.dumps(sorted(zip(*columns, strict=True))).encode(), digest_size=16).hexdigest()


def by_place(clips: pa.Table) -> dict[tuple[str, str], NDArray[np.int64]]:
    """The rows of each (machine, section), in a fixed order of places."""
    machine, section = clips["machine"].to_numpy(zero_copy_only=False), clips["section"].to_numpy(zero_copy_only=False)
    places = sorted(set(zip(machine.tolist(), section.tolist(), strict=True)))
    return {place: np.flatnonzero((machine == place[0]) & (section == place[1])) for place in places}


def machines_without_attributes(clips: pa.Table) -> tuple[str, ...]:
    """Machines whose training clips all lack attributes, in alphabetical order: those that need pseudo-labels."""
    rows = [row for row in clips.to_pylist() if row["split"] == "train" and not row["problem"]]
    with_attributes = {row["machine"] for row in rows if row["attribute"] != NO_ATTRIBUTE}
    return tuple(sorted({row["machine"] for row in rows} - with_attributes))


def write_table(table: pa.Table, path: str | Path) -> None:
    """Write a clip table as Parquet in one step: a reader sees the old file or the whole new one."""
    assert table.schema.equals(CLIP_SCHEMA), "only clip tables are written here"
    part = Path(path).with_name(f".{Path(path).name}.{uuid.uuid4().hex[:8]}.part")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, part)
        os.replace(part, path)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}; name another file") from None
    finally:
        if part.exists():
            part.unlink()


def read_table(path: str | Path) -> pa.Table:
    """Read a clip table; DataError where the file is missing, no Parquet, or has other columns."""
    advice = "write one with: asd scan ROOT --out clips.parquet"
    try:
        table = pq.read_table(path, partitioning=None)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"cannot read the clip table {path} ({error}); {advice}") from None
    if not table.schema.equals(CLIP_SCHEMA):
        odd = sorted(set(CLIP_SCHEMA.names) ^ set(table.schema.names)) or ["the types of some columns"]
        raise DataError(f"{path} is not a clip table, it differs in: {', '.join(odd)}; {advice}")
    return table
