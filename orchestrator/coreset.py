"""The core-set: external clips that h takes for normal recordings of a machine (paper §3.3, Algorithm 2, spec §11).

Scores go shard by shard into a ledger of small Parquet files, so that a killed run goes on where it was; the choice
streams over the ledger, and only the chosen clips' audio is read a second time and kept.
"""

import csv
import hashlib
import io
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
from numpy.typing import NDArray

from models.coreset import BestClips, acceptance_threshold
from orchestrator.config import CoreSetConfig
from orchestrator.data.audioset import Shard, class_mids
from orchestrator.data.external import chosen_samples
from orchestrator.external_ledger import POOL, PREFIX, Progress, Rule, ledgers, score_missing
from orchestrator.external_scoring import Chooser, own_fault
from orchestrator.runtime import Slots
from orchestrator.storage import Store

VERSION = 1  # raise it when a change of ours changes what is chosen; CHANGELOG.md says so
TABLE, SUMMARY, PROBLEMS = "core_set.parquet", "summary.json", "problems.csv"
ROWS_A_CHUNK = 256  # of the result's table: keeps each piece of audio far below Arrow's 2 GB a column

CORE_SET_SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("video_id", pa.string()),
        ("shard", pa.string()),
        ("row", pa.int64()),
        ("mid", pa.string()),
        ("display_name", pa.string()),
        ("machine", pa.string()),
        ("score", pa.float64()),
        ("digest", pa.string()),  # blake2b (16 bytes, hex) of the samples, as in a clip table
        ("samples", pa.binary()),  # little-endian int16, 16 kHz, mono
    ]
)


class CoreSet(NamedTuple):
    """The chosen clips with their audio (CORE_SET_SCHEMA; perhaps no row), and the choice in figures."""

    table: pa.Table
    summary: dict[str, Any]


class _Chosen(NamedTuple):
    shard: int
    row: int
    clip_id: str
    mid: str
    machine: str
    score: float


def core_set_key(config: CoreSetConfig, shards: Sequence[Shard], member_hashes: Sequence[str], scores_key: str) -> str:
    """What the choice depends on (16 hex digits): the shards' contents, h, the classes and the limits; no places."""
    rule = config.model_dump(mode="json", include={"percentile", "most", "per"})
    return _hash([ledger_key(config, member_hashes, scores_key), rule, sorted(shard.key for shard in shards)])


def ledger_key(config: CoreSetConfig, member_hashes: Sequence[str], scores_key: str) -> str:
    """What one external clip's score depends on (16 hex digits): h and which clips count; not how many are kept."""
    mids = sorted(class_mids(config))
    return _hash([VERSION, config.epoch, config.min_seconds, mids, sorted(member_hashes), scores_key])


def _hash(facts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def read_core_set(store: Store) -> CoreSet | None:
    """The core-set that a folder holds, None where there is none yet; the summary is what was written last."""
    if not store.exists(SUMMARY):
        return None
    return CoreSet(store.read_table(TABLE), store.read_json(SUMMARY))


def samples_of(table: pa.Table) -> list[NDArray[np.int16]]:
    """The waveforms of a core-set's rows: int16 (n,) each, 16 kHz, read-only and not copied."""
    return [np.frombuffer(value.as_buffer(), "<i2") for value in table["samples"]]


def choose_core_set(
    *,
    config: CoreSetConfig,
    shards: Sequence[Shard],
    chooser: Chooser,
    original: Mapping[str, NDArray[np.float64]],
    store: Store,
    slots: Slots,
    ledger: Store | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    say: Callable[[str], None] = lambda sentence: None,
) -> CoreSet:
    """Score all candidates that no ledger knows and keep the best below each limit; needs a running Ray.

    `original` holds h on each machine's own training clips. What is there already is returned at once. The choice is
    the same for any order of `shards`, any number of slots and after any kill. Scores are kept in `ledger`, a folder
    by `ledger_key` that several choices may share; by default in the store itself. DataError where a shard is gone.
    """
    if (kept := read_core_set(store)) is not None:
        return kept
    shards = sorted(shards, key=lambda shard: (shard.name, shard.key))
    mids, rule, ledger = class_mids(config), _rule(config, original), ledger or store.child("ledger")
    score_missing(
        shards,
        ledger,
        rule,
        chooser=chooser,
        mids=mids,
        min_seconds=config.min_seconds,
        slots=slots,
        on_progress=on_progress,
        say=say,
    )
    chosen = _select(shards, ledger, rule)
    table = _with_audio(chosen, shards, mids, config.min_seconds)
    summary = _summary(rule, shards, ledger, table)
    store.write(PROBLEMS, _problems_csv(shards, ledger))
    store.write_table(TABLE, table)
    store.write_json(SUMMARY, summary)
    seen = summary["candidates"]
    say(
        f"core-set: kept {len(table)} of {seen['scored']} scored external clips ({seen['listed']} of {seen['seen']} "
        f"are of the asked classes, {seen['problems']} of them unusable: {store.uri}/{PROBLEMS})"
    )
    return CoreSet(table, summary)


def _rule(config: CoreSetConfig, original: Mapping[str, NDArray[np.float64]]) -> Rule:
    groups = {POOL: np.concatenate(list(original.values()))} if config.per == "pool" else original
    limits = {place: float(acceptance_threshold(scores, config.percentile)) for place, scores in sorted(groups.items())}
    return Rule(limits, config.most)


def _select(shards: Sequence[Shard], ledger: Store, rule: Rule) -> list[_Chosen]:
    """Algorithm 2 over the ledger: sorted by machine, score, clip id.

    Where several rows have one video id, only the best of those that would be kept counts, and the choice is made
    again without the others.
    """
    twins: set[tuple[int, int]] = set()
    while True:
        best = {place: BestClips(rule.most) for place in rule.limits}
        for index, rows in ledgers(shards, ledger):
            for clip in rows.filter(pc.equal(rows["problem"], "")).to_pylist():
                place = rule.place(clip["machine"])
                if clip["score"] < rule.limits[place] and (index, clip["row"]) not in twins:
                    fields = [clip[name] for name in ("row", "clip_id", "mid", "machine", "score")]
                    best[place].offer(clip["score"], clip["clip_id"], _Chosen(index, *fields))
        chosen = [clip for place in best.values() for clip in _payloads(place)]
        chosen.sort(key=lambda clip: (clip.score, clip.clip_id, clip.shard, clip.row))
        first = {clip.clip_id: clip for clip in reversed(chosen)}
        worse = [clip for clip in chosen if first[clip.clip_id] is not clip]
        if not worse:
            return sorted(chosen, key=lambda clip: (clip.machine, clip.score, clip.clip_id))
        twins.update((clip.shard, clip.row) for clip in worse)


def _payloads(best: BestClips) -> list[_Chosen]:
    return [payload for _, _, payload in best.sorted()]


def _with_audio(
    chosen: Sequence[_Chosen], shards: Sequence[Shard], mids: Mapping[str, str], min_seconds: float
) -> pa.Table:
    """Read the chosen clips again, a task a shard, and put the table together piece by piece."""
    rows_of: defaultdict[int, list[int]] = defaultdict(list)
    for clip in chosen:
        rows_of[clip.shard].append(clip.row)
    read = ray.remote(num_cpus=0.25, max_retries=5)(chosen_samples)
    tasks = {index: read.remote(shards[index], rows, min_seconds) for index, rows in rows_of.items()}
    try:
        waves = {index: ray.get(task) for index, task in tasks.items()}
    except ray.exceptions.RayTaskError as error:
        raise own_fault(error) from error
    pieces = [CORE_SET_SCHEMA.empty_table()]
    for begin in range(0, len(chosen), ROWS_A_CHUNK):
        part = chosen[begin : begin + ROWS_A_CHUNK]
        rows = [_core_set_row(clip, shards[clip.shard], mids, waves[clip.shard][clip.row]) for clip in part]
        pieces.append(pa.Table.from_pylist(rows, schema=CORE_SET_SCHEMA))
    return pa.concat_tables(pieces)


def _core_set_row(clip: _Chosen, shard: Shard, mids: Mapping[str, str], samples: NDArray[np.int16]) -> dict[str, Any]:
    data = samples.astype("<i2", copy=False).tobytes()
    fields = {name: getattr(clip, name) for name in ("clip_id", "row", "mid", "machine", "score")}
    return fields | {
        "video_id": clip.clip_id.removeprefix(PREFIX),
        "shard": shard.name,
        "display_name": mids[clip.mid],
        "digest": hashlib.blake2b(data, digest_size=16).hexdigest(),
        "samples": data,
    }


def _summary(rule: Rule, shards: Sequence[Shard], ledger: Store, table: pa.Table) -> dict[str, Any]:
    reasons: Counter[str] = Counter()
    listed = 0
    for _, rows in ledgers(shards, ledger):
        listed += len(rows)
        reasons.update(problem.partition(":")[0] for problem in rows["problem"].to_pylist() if problem)
    problems = sum(reasons.values())
    chosen: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for machine, name in zip(table["machine"].to_pylist(), table["display_name"].to_pylist(), strict=True):
        chosen[machine][name] += 1
    return {
        "version": VERSION,
        "threshold": rule.limits,
        "most": rule.most,
        "shards": len(shards),
        "candidates": {
            "seen": sum(shard.rows for shard in shards),
            "listed": listed,
            "scored": listed - problems,
            "problems": problems,
        },
        "problems": dict(reasons),
        "kept": len(table),
        "chosen": {machine: dict(classes) for machine, classes in chosen.items()},
    }


def _problems_csv(shards: Sequence[Shard], ledger: Store) -> bytes:
    """Every candidate that could not be scored: shard, row, video id, reason."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["shard", "row", "video_id", "reason"])
    for index, rows in ledgers(shards, ledger):
        for clip in rows.filter(pc.not_equal(rows["problem"], "")).to_pylist():
            video_id = clip["clip_id"].removeprefix(PREFIX)
            writer.writerow([shards[index].name, clip["row"], video_id, clip["problem"]])
    return text.getvalue().encode()
