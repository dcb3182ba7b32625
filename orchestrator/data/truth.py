"""What is known of test clips: is it an anomaly, is it from the target domain; from a table or from file names."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.data.dcase import find_clips
from orchestrator.data.folders import REMEDY, is_folder
from orchestrator.errors import DataError
from orchestrator.storage import explain_fault, read_file

TRUTH_SCHEMA = pa.schema(
    [("machine", pa.string()), ("file_name", pa.string()), ("is_anomaly", pa.bool_()), ("is_target", pa.bool_())]
)
FLAGS = {"0": False, "1": True, "false": False, "true": True}
CLIP_COLUMNS = ("machine", "file_name", "split", "label", "domain")
LABELS = {"normal": False, "anomaly": True}
DOMAINS = {"source": False, "target": True}
LISTED = 50

Rows = dict[tuple[str, str], dict]


def read_truth(path: str | Path) -> pa.Table:
    """Read a truth table: machine, file_name, is_anomaly, is_target (TRUTH_SCHEMA).

    `path` is a CSV with these columns (others are ignored), a Parquet clip table, or a folder of recordings whose
    names tell, on a disk or at a URI; of the last two only test clips with a known label count. DataError names every
    line that is wrong.
    """
    path = str(path)
    if is_folder(path):
        return _from_clips(path, find_clips([path]).clips)
    try:
        with explain_fault("read", path, but=(FileNotFoundError,), remedy=REMEDY):
            content = read_file(path)
    except FileNotFoundError as error:
        valid = f"give a CSV of {', '.join(TRUTH_SCHEMA.names)}, a clips.parquet or a folder"
        raise DataError(f"no truth at {path}: {valid}") from error
    if path.endswith(".parquet"):
        return _from_clips(path, _read_parquet(path, content))
    return _from_csv(path, content)


def _read_parquet(path: str, content: bytes) -> pa.Table:
    try:
        file = pq.ParquetFile(pa.BufferReader(content))
        return file.read(columns=_clip_columns(path, file.schema_arrow.names))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a clip table as `asd scan` writes it: {error}") from error


def _clip_columns(path: str, there: Sequence[str]) -> list[str]:
    missing = [name for name in CLIP_COLUMNS if name not in there]
    if missing:
        raise DataError(
            f"{path}: no column {', '.join(missing)}; a clip table is what `asd scan ROOT --out {path}` writes"
        )
    return [*CLIP_COLUMNS, *(["problem"] if "problem" in there else [])]


def _from_clips(path: str, clips: pa.Table) -> pa.Table:
    rows: Rows = {}
    faults = []
    for number, row in enumerate(clips.to_pylist()):
        if (
            row["split"] == "test" and row["label"] != "unknown" and not row.get("problem")
        ):  # a broken clip has no score
            fault = _add(rows, row, is_anomaly=("label", LABELS), is_target=("domain", DOMAINS))
            faults += [f"{path}: row {number}: {fault}"] if fault else []
    empty = f"{path}: no test clip there has a known label; give a CSV of {', '.join(TRUTH_SCHEMA.names)}"
    return _table(rows, faults, empty)


def _from_csv(path: str, content: bytes) -> pa.Table:
    rows: Rows = {}
    faults = []
    try:
        reader = csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""))
        _check_header(path, reader.fieldnames or ())
        for raw in reader:
            fault = _add(rows, raw, is_anomaly=("is_anomaly", FLAGS), is_target=("is_target", FLAGS))
            faults += [f"{path}:{reader.line_num}: {fault}"] if fault else []
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a CSV in UTF-8: {error}") from error
    return _table(rows, faults, f"{path}:1: a header and no rows; each test clip needs one")


def _check_header(path: str, names: Iterable[str]) -> None:
    missing = [name for name in TRUTH_SCHEMA.names if name not in names]
    if missing:
        raise DataError(f"{path}:1: no column {', '.join(missing)}; needed: {', '.join(TRUTH_SCHEMA.names)}")


def _add(rows: Rows, raw: dict, **flags: tuple[str, dict[str, bool]]) -> str | None:
    """Add one row, each flag read from its column by its words; returns what is wrong with the row, if anything."""
    found = {name: words.get(_word(raw[column]).lower()) for name, (column, words) in flags.items()}
    bad = [
        f"{column} is {raw[column]!r}; valid: {' or '.join(list(words)[:2])}"
        for name, (column, words) in flags.items()
        if found[name] is None
    ]
    key = (_word(raw["machine"]), _word(raw["file_name"]))
    bad += [f"{column} is empty" for column, value in zip(("machine", "file_name"), key, strict=True) if not value]
    if key in rows:
        bad.append(f"machine, file_name: {'/'.join(key)} occurs twice")
    if bad:
        return "; ".join(bad)
    rows[key] = {"machine": key[0], "file_name": key[1], **found}
    return None


def _word(cell: object) -> str:
    """A cell as text: a short line of a CSV lacks some, a foreign Parquet file may hold numbers."""
    return "" if cell is None else str(cell).strip()


def _table(rows: Rows, faults: list[str], empty: str) -> pa.Table:
    if faults:
        rest = [f"... and {len(faults) - LISTED} more"] if len(faults) > LISTED else []
        raise DataError("\n".join([f"{len(faults)} fault(s) in the truth:", *faults[:LISTED], *rest]))
    if not rows:
        raise DataError(empty)
    return pa.Table.from_pylist(list(rows.values()), TRUTH_SCHEMA)
