"""One table of all that is known of a folder's test clips: from their names, and from a truth that came separately."""

import csv
import io
from pathlib import Path
from typing import NamedTuple

from orchestrator.data.dcase import find_clips
from orchestrator.data.truth import DOMAINS, LABELS, TRUTH_SCHEMA, read_truth
from orchestrator.errors import DataError
from orchestrator.storage import Store

FILE = "truth.csv"
LISTED = 20

Key = tuple[str, str]  # machine, file name without suffix
Flags = tuple[bool, bool]  # is it an anomaly, is it from the target domain


class KnownTruth(NamedTuple):
    """What was written: rows in all, rows that file names do not tell, test clips without truth, rows without clip."""

    path: Path
    rows: int
    joined: int
    unknown: int
    strays: int


def write_truth(root: Path, given: Path | None = None) -> KnownTruth:
    """Write `root/truth.csv` (machine,file_name,is_anomaly,is_target) with every test clip whose truth is known.

    `given` is what `read_truth` reads; what an earlier call was given stays known. DataError lists where a truth
    contradicts a clip's name, and says when no row of `given` has a clip. Nothing is written where nothing is known.
    """
    clips = find_clips([root]).clips.to_pylist()
    names = {(c["machine"], Path(c["file_name"]).stem): c for c in clips if c["split"] == "test" and not c["problem"]}
    earlier = _told(root / FILE, names) if (root / FILE).is_file() else {}
    told = _told(given, names) if given else {}
    if given and not told.keys() & names.keys():
        raise DataError(f"{given} names no test clip that is here; prepare its subset first: --subset eval")
    known = {key: flags for key, clip in names.items() if (flags := (earlier | told).get(key) or _by_name(clip))}
    if known:
        _write(root, {(key[0], names[key]["file_name"]): flags for key, flags in known.items()})
    joined = sum(_by_name(names[key]) is None for key in known)
    return KnownTruth(root / FILE, len(known), joined, len(names) - len(known), len(told.keys() - names.keys()))


def _told(source: Path, names: dict[Key, dict]) -> dict[Key, Flags]:
    rows = read_truth(source).to_pylist()
    told = {(r["machine"], Path(r["file_name"]).stem): (r["is_anomaly"], r["is_target"]) for r in rows}
    _check(names, told, source)
    return told


def _by_name(clip: dict) -> Flags | None:
    """What a clip's name and folder say, None where they leave one of the two open."""
    if clip["label"] not in LABELS or clip["domain"] not in DOMAINS:
        return None
    return LABELS[clip["label"]], DOMAINS[clip["domain"]]


def _check(names: dict[Key, dict], told: dict[Key, Flags], source: Path) -> None:
    faults = [
        f"  {names[key]['path']}: {source} says {value}, its name says {names[key][column]}"
        for key, flags in told.items()
        if key in names
        for column, words, flag in (("label", LABELS, flags[0]), ("domain", DOMAINS, flags[1]))
        for value in [next(word for word, meaning in words.items() if meaning == flag)]
        if names[key][column] not in ("unknown", value)
    ]
    if faults:
        rest = [f"  ... and {len(faults) - LISTED} more"] if len(faults) > LISTED else []
        raise DataError("\n".join([f"the truth contradicts {len(faults)} names:", *faults[:LISTED], *rest]))


def _write(root: Path, rows: dict[tuple[str, str], Flags]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(TRUTH_SCHEMA.names)
    writer.writerows((*key, int(anomaly), int(target)) for key, (anomaly, target) in sorted(rows.items()))
    Store.at(root).write(FILE, text.getvalue().encode())
