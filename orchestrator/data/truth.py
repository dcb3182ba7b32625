"""What is known of test clips: is it an anomaly, is it from the target domain; from a table or from file names."""

import csv
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.data.dcase import find_clips
from orchestrator.errors import DataError

TRUTH_SCHEMA = pa.schema(
    [("machine", pa.string()), ("file_name", pa.string()), ("is_anomaly", pa.bool_()), ("is_target", pa.bool_())]
)
FLAGS = {"0": False, "1": True, "false": False, "true": True}


def read_truth(path: str | Path) -> pa.Table:
    """Read a truth table: machine, file_name, is_anomaly, is_target (TRUTH_SCHEMA).

    `path` is a CSV with these columns (others are ignored), a Parquet clip table, or a folder of recordings whose
    names tell. DataError names every line that is wrong.
    """
    path = Path(path)
    if path.is_dir():
        return _from_clips(find_clips([path]).clips)
    if not path.is_file():
        raise DataError(
            f"no truth at {path}: give a CSV of {', '.join(TRUTH_SCHEMA.names)}, a clips.parquet or a folder"
        )
    if path.suffix == ".parquet":
        return _from_clips(_read_parquet(path))
    return _from_csv(path)


def _read_parquet(path: Path) -> pa.Table:
    try:
        return pq.read_table(path, columns=["machine", "file_name", "split", "label", "domain"])
    except (pa.ArrowException, OSError, KeyError) as error:
        raise DataError(f"{path} is not a clip table as `asd scan` writes it: {error}") from error


def _from_clips(clips: pa.Table) -> pa.Table:
    rows = [
        {
            "machine": row["machine"],
            "file_name": row["file_name"],
            "is_anomaly": row["label"] == "anomaly",
            "is_target": row["domain"] == "target",
        }
        for row in clips.to_pylist()
        if row["split"] == "test" and row["label"] != "unknown" and row["domain"] != "unknown"
    ]
    if not rows:
        raise DataError("no test clip there has a known label and domain; give a CSV with the truth")
    return pa.Table.from_pylist(rows, TRUTH_SCHEMA)


def _from_csv(path: Path) -> pa.Table:
    rows: dict[tuple[str, str], dict] = {}
    faults = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = set(TRUTH_SCHEMA.names) - set(reader.fieldnames or ())
            if missing:
                raise DataError(
                    f"{path}: no column {', '.join(sorted(missing))}; needed: {', '.join(TRUTH_SCHEMA.names)}"
                )
            for line, raw in enumerate(reader, start=2):
                fault = _add(rows, raw)
                faults += [f"{path}:{line}: {fault}"] if fault else []
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a CSV in UTF-8: {error}") from error
    if faults or not rows:
        raise DataError("\n".join(faults[:50]) or f"{path}: no rows")
    return pa.Table.from_pylist(list(rows.values()), TRUTH_SCHEMA)


def _add(rows: dict[tuple[str, str], dict], raw: dict) -> str | None:
    """Add one CSV row; returns what is wrong with it, if anything."""
    flags = {name: FLAGS.get((raw[name] or "").strip().lower()) for name in ("is_anomaly", "is_target")}
    bad = [name for name, value in flags.items() if value is None]
    if bad:
        return f"{bad[0]} is {raw[bad[0]]!r}; valid: 0 or 1"
    key = (raw["machine"], raw["file_name"])
    if not all(key):
        return "machine or file_name is empty"
    if key in rows:
        return f"{'/'.join(key)} occurs twice"
    rows[key] = {"machine": key[0], "file_name": key[1], **flags}
    return None
