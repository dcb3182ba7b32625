"""What a study's folder holds, read once for the report; what is missing becomes a sentence, never a crash.

Shapes: N test clips of a row.
"""

import csv
import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from orchestrator.config import Study
from orchestrator.data.audioset import external_shards
from orchestrator.data.clips import CLIP_SCHEMA, by_place, machines_without_attributes
from orchestrator.errors import ConfigError, DataError, UserError
from orchestrator.evaluation import OfficialResult, Place, evaluate_scores
from orchestrator.loading import STUDY, load_study, read_study, study_store
from orchestrator.plan import CLIPS, Plan, plan_members
from orchestrator.results import TEST_SCORES
from orchestrator.scoring import SCORE_SCHEMA
from orchestrator.storage import Store, is_local

SCORES, RESULTS = "scores.parquet", "results.md"


class SystemRow(NamedTuple):
    """A row of the results: its test clips with score, decision and truth (null where nobody knows it)."""

    name: str
    title: str
    id: str
    published: dict[str, float]  # percent
    test: pa.Table
    thresholds: dict[str, float]  # by what a place is called
    result: OfficialResult | None  # of the clips with a known truth
    seeds: dict[int, float]  # official score of each seed alone, as far as there is one

    @property
    def official(self) -> float | None:
        return self.result.official_score if self.result else None

    @property
    def label(self) -> str:
        return f"{self.id} {self.title}".strip()


class Contents(NamedTuple):
    """All that the report is made from, and sentences on what could not be read."""

    study: Study
    store: Store
    clips: pa.Table  # usable clips of CLIP_SCHEMA; empty before the first run has read them
    rows: list[SystemRow]  # those that are there
    missing: list[str]  # what the others are called
    scores: pa.Table  # SCORE_SCHEMA, of test clips
    plan: Plan | None  # which members belong to which group; None where that cannot be known
    places: dict[Place, str]  # machine and section -> what it is called
    unlabelled: frozenset[str]  # machines without attributes
    notes: list[str]

    @property
    def best(self) -> SystemRow | None:
        """The row with the highest official score; the last where no truth is known, None without rows."""
        known = [row for row in self.rows if row.official is not None]
        return max(known, key=lambda row: row.official or 0.0) if known else next(reversed(self.rows), None)

    def place(self, place: Place) -> str:
        return self.places.get(place, " ".join(place))


def find_study(place: str) -> Store:
    """The results of a study, given as its folder, a URI, or its study file; DataError says what would be one."""
    path = Path(place).expanduser()
    if not is_local(place):
        return Store.at(place)
    if path.suffix in (".yaml", ".yml") and path.name != STUDY:
        store = study_store(load_study(path))
        if not store.exists(STUDY):
            raise DataError(f"{place}: nothing of this study is in {store.uri} yet; run `asd run {place}` first")
        return store
    folder = path.parent if path.name == STUDY else path
    if not (folder / STUDY).is_file():
        around = sorted(
            str(found.parent) for top in (folder, folder.parent, Path("results")) for found in _studies(top)
        )
        known = ", ".join(dict.fromkeys(around)) or "none"
        why = "has no study.yaml" if folder.is_dir() else "is a file" if folder.exists() else "does not exist"
        raise DataError(
            f"{place} is no study's folder: it {why}. Give results/<study>, made by `asd run`. Studies near: {known}"
        )
    return Store.at(folder)


def _studies(top: Path) -> list[Path]:
    return list(top.glob(f"*/{STUDY}")) if top.is_dir() else []


def read_contents(store: Store) -> Contents:
    """Read a study's folder, finished or not; UserError where it is none, or its study file is not valid."""
    study, notes = _study(store), list[str]()
    clips, scores = _clips(store, notes), _scores(store, notes)
    test_ids = clips.filter(pc.equal(clips["split"], "test"))["clip_id"].combine_chunks()
    systems = {name: store.child("systems", name) for name in study.systems}
    there = [name for name, folder in systems.items() if folder.exists(TEST_SCORES)]
    rows = [_row(study, systems[name], name) for name in there]
    missing = [study.systems[name].title or name for name in systems if name not in there]
    if missing:
        notes.append(
            f"The study is not finished: {len(missing)} of {len(systems)} rows have no results yet "
            f"({', '.join(missing)}). Run `asd run` on it again; what is there is kept."
        )
    elif _newer(store, STUDY, RESULTS):
        notes.append("A run began after these results were written: they may be those of an earlier run.")
    return Contents(
        study=study,
        store=store,
        clips=clips,
        rows=rows,
        missing=missing,
        scores=scores.filter(pc.is_in(scores["clip_id"], test_ids)),
        plan=_plan(study, store, clips, notes),
        places=place_names(clips),
        unlabelled=frozenset(machines_without_attributes(clips)),
        notes=notes,
    )


def _study(store: Store) -> Study:
    try:
        return read_study(store)
    except ConfigError as error:
        raise DataError(
            f"{error}\nAnother version of this program wrote it? Then `asd run` the study again."
        ) from error


def _clips(store: Store, notes: list[str]) -> pa.Table:
    if not store.exists(CLIPS):
        notes.append("No recording has been read yet: `asd run` has not come so far.")
        return CLIP_SCHEMA.empty_table()
    scanned = store.read_table(CLIPS)
    clips = scanned.filter(pc.equal(scanned["problem"], ""))
    if bad := len(scanned) - len(clips):
        notes.append(f"{bad} recording(s) could not be used and were left out.")
    return clips


def _scores(store: Store, notes: list[str]) -> pa.Table:
    if not store.exists(SCORES):
        return SCORE_SCHEMA.empty_table()
    scores = store.read_table(SCORES)
    if not set(SCORE_SCHEMA.names) <= set(scores.column_names):
        notes.append("The members' scores were written by another version of this program and are not shown.")
        return SCORE_SCHEMA.empty_table()
    return scores


def _row(study: Study, folder: Store, name: str) -> SystemRow:
    system, test = study.systems[name], folder.read_table(TEST_SCORES)
    return SystemRow(
        name=name,
        title=system.title or name,
        id=system.id,
        published=dict(system.published),
        test=test,
        thresholds=_thresholds(folder),
        result=evaluate_known(test),
        seeds=_seeds(test),
    )


def _seeds(test: pa.Table) -> dict[int, float]:
    columns = [name for name in test.column_names if name.startswith("seed_")]
    at = test.column_names.index("score")
    found = {name: evaluate_known(test.set_column(at, "score", test[name])) for name in columns}
    scores = {name: result.official_score for name, result in found.items() if result}
    return {int(name.removeprefix("seed_")): score for name, score in scores.items() if score is not None}


def _thresholds(folder: Store) -> dict[str, float]:
    if not folder.exists("thresholds.csv"):
        return {}
    rows = csv.DictReader(io.StringIO(folder.read("thresholds.csv").decode()))
    return {row["machine"]: float(row["threshold"]) for row in rows}


def known_rows(test: pa.Table) -> pa.Table:
    """The clips whose truth is known."""
    return test.filter(pc.and_(test["is_anomaly"].is_valid(), test["is_target"].is_valid()))


def evaluate_known(test: pa.Table) -> OfficialResult | None:
    """The official figures of the clips whose truth is known, None where there are none."""
    known = known_rows(test)
    return evaluate_scores(known) if len(known) else None


def place_names(clips: pa.Table) -> dict[Place, str]:
    """The machine, with its section where it has several: as the results call it."""
    places = list(by_place(clips))
    machines = [machine for machine, _ in places]
    return {(m, section): f"{m} {section}" if machines.count(m) > 1 else m for m, section in places}


def _newer(store: Store, name: str, other: str) -> bool:
    first, second = (store.files.get_file_info(store.path(file)).mtime_ns for file in (name, other))
    return first is not None and second is not None and first > second


def _plan(study: Study, store: Store, clips: pa.Table, notes: list[str]) -> Plan | None:
    """Members by group. Without the external audio it is not known which members learned from the core-set."""
    if not len(clips):
        return None
    try:
        shards = external_shards(study)
    except UserError as error:
        shards = []
        notes.append(f"The external audio cannot be read, so members that learned from it are not shown: {error}")
    try:
        plan = plan_members(study, store, clips, shards)
    except UserError as error:
        notes.append(f"Which members the study has is not known: {error}")
        return None
    for group, stage in plan.waiting.items():
        notes.append(f"Group {group}: its members are not known, the {stage} that they learn from was not found.")
    return plan


def clips_of(contents: Contents, row: SystemRow) -> pa.Table:
    """The clip table's rows of a system's test clips, in their order (N); DataError where one is not there."""
    keys = ("machine", "section", "file_name")
    columns = [contents.clips[name].to_pylist() for name in keys]
    test = contents.clips["split"].to_pylist()
    at = {key: i for i, key in enumerate(zip(*columns, strict=True)) if test[i] == "test"}
    wanted = list(zip(*(row.test[name].to_pylist() for name in keys), strict=True))
    if lost := [key for key in wanted if key not in at]:
        raise DataError(f"{len(lost)} test clips of row {row.label} are not in clips.parquet, such as {lost[0][2]}")
    return contents.clips.take([at[key] for key in wanted])


def flags(test: pa.Table, column: str, unknown: bool = False) -> NDArray[np.bool_]:
    """A column of the truth as (N,) bool."""
    return test[column].fill_null(unknown).to_numpy(zero_copy_only=False).astype(bool)
