"""The challenge's files: scores and decisions per machine and section, written and read (spec §12)."""

import csv
import io
import math
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.errors import SubmissionError
from orchestrator.storage import Store

FILE_NAME = re.compile(r"(anomaly_score|decision_result)_(.+)_section_(\d+)_test\.csv")


class ChallengeFile(NamedTuple):
    """One file's rows in its order: {file name: value}, and the line of every name, also where its value is bad."""

    path: Path
    values: dict[str, float]
    lines: dict[str, int]


def write_challenge_files(rows: pa.Table, folder: Store) -> list[str]:
    """Write both files of every machine and section; rows have machine, section, file_name, score and decision.

    Lines are sorted by file name, scores keep all their digits, the truth need not be known. Each file is replaced in
    one step. Returns the names of the files. SubmissionError lists scores that are not finite and doubled clips, and
    then nothing is written.
    """
    _refuse_broken(rows)
    written = []
    for machine, section in sorted(set(zip(rows["machine"].to_pylist(), rows["section"].to_pylist(), strict=True))):
        mine = rows.filter(pc.and_(pc.equal(rows["machine"], machine), pc.equal(rows["section"], section)))
        mine = mine.sort_by("file_name")
        for kind, column in (("anomaly_score", "score"), ("decision_result", "decision")):
            buffer = io.StringIO()
            number = float if column == "score" else int
            pairs = zip(mine["file_name"].to_pylist(), mine[column].to_pylist(), strict=True)
            csv.writer(buffer, lineterminator="\n").writerows((name, repr(number(value))) for name, value in pairs)
            name = f"{kind}_{machine}_section_{section}_test.csv"
            folder.write(name, buffer.getvalue().encode())
            written.append(name)
    return written


def _refuse_broken(rows: pa.Table) -> None:
    clips = list(zip(*(rows[name].to_pylist() for name in ("machine", "section", "file_name")), strict=True))
    doubled = sorted(clip for clip, count in Counter(clips).items() if count > 1)
    scores = zip(clips, rows["score"].to_pylist(), strict=True)
    faults = [f"{'/'.join(clip)}: occurs twice" for clip in doubled]
    faults += [f"{'/'.join(clip)}: score {s}" for clip, s in scores if s is None or not math.isfinite(s)]
    if faults:
        listed = "\n".join(faults[:10])
        raise SubmissionError(f"{len(faults)} clip(s) cannot be submitted; train again, or scan the data:\n{listed}")


def read_challenge_file(path: Path, faults: list[str]) -> ChallengeFile:
    """Read `file_name,value` lines; what is wrong is appended to `faults` as `file:line: what`."""
    values: dict[str, float] = {}
    line_of: dict[str, int] = {}
    decisions = path.name.startswith("decision_result")
    try:
        rows = list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines()))
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        faults.append(f"{path}: not readable as text: {error}")
        return ChallengeFile(path, values, line_of)
    for number, fields in enumerate(rows, start=1):
        if not fields:
            continue
        name = fields[0].strip()
        fault = _fault(fields, line_of, decisions)
        line_of.setdefault(name, number)
        if fault:
            faults.append(f"{path}:{number}: {fault}")
        else:
            values[name] = float(fields[1])
    if not line_of:
        faults.append(f"{path}: no lines; each test clip needs file_name,value")
    return ChallengeFile(path, values, line_of)


def _fault(fields: list[str], line_of: dict[str, int], decisions: bool) -> str | None:
    name = fields[0].strip()
    if len(fields) != 2 or not name:
        return f"{len(fields)} column(s), the first {name!r}; a line is file_name,value"
    if name in line_of:
        return f"{name} occurs twice, first in line {line_of[name]}"
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
