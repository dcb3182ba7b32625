"""The challenge's files: scores and decisions per machine and section, written and read (spec §12)."""

import csv
import io
import math
import re
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.errors import SubmissionError
from orchestrator.storage import Store

FILE_NAME = re.compile(r"(anomaly_score|decision_result)_(.+)_section_(\d+)_test\.csv")


class ChallengeFile(NamedTuple):
    """One file's rows in its order: {file name: value}."""

    path: Path
    values: dict[str, float]


def write_challenge_files(rows: pa.Table, folder: Store) -> list[str]:
    """Write both files of every machine and section; rows have machine, section, file_name, score and decision."""
    written = []
    for machine, section in sorted(set(zip(rows["machine"].to_pylist(), rows["section"].to_pylist(), strict=True))):
        mine = rows.filter(pc.and_(pc.equal(rows["machine"], machine), pc.equal(rows["section"], section)))
        mine = mine.sort_by("file_name")
        for kind, column in (("anomaly_score", "score"), ("decision_result", "decision")):
            buffer = io.StringIO()
            pairs = zip(mine["file_name"].to_pylist(), mine[column].to_pylist(), strict=True)
            csv.writer(buffer, lineterminator="\n").writerows((name, repr(value)) for name, value in pairs)
            name = f"{kind}_{machine}_section_{section}_test.csv"
            folder.write(name, buffer.getvalue().encode())
            written.append(name)
    return written


def read_challenge_file(path: Path, faults: list[str]) -> ChallengeFile:
    """Read `file_name,value` lines; what is wrong is appended to `faults` as `file:line: what`."""
    values: dict[str, float] = {}
    decisions = path.name.startswith("decision_result")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (UnicodeDecodeError, OSError) as error:
        raise SubmissionError(f"{path} is not readable as text: {error}") from error
    for number, fields in enumerate(csv.reader(lines), start=1):
        if not fields:
            continue
        fault = _fault(fields, values, decisions)
        if fault:
            faults.append(f"{path}:{number}: {fault}")
        else:
            values[fields[0].strip()] = float(fields[1])
    return ChallengeFile(path, values)


def _fault(fields: list[str], values: dict[str, float], decisions: bool) -> str | None:
    if len(fields) != 2:
        return f"{len(fields)} column(s); a line is file_name,value"
    if fields[0].strip() in values:
        return f"{fields[0].strip()} occurs twice"
    try:
        value = float(fields[1])
    except ValueError:
        return f"{fields[1]!r} is not a number"
    if not math.isfinite(value):
        return f"{fields[1]!r} is not finite"
    if decisions and value not in (0, 1):
        return f"decision {fields[1]!r}; valid: 0 (normal) or 1 (anomalous)"
    return None


def find_files(folder: Path) -> dict[tuple[str, str, str], Path]:
    """The challenge files of a folder by (kind, machine, section)."""
    if not folder.is_dir():
        raise SubmissionError(f"no folder {folder}; it should hold anomaly_score_<machine>_section_<nn>_test.csv")
    matches = ((FILE_NAME.fullmatch(path.name), path) for path in sorted(folder.iterdir()))
    return {match.groups(): path for match, path in matches if match}  # type: ignore[misc]
