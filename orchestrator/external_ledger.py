"""The scores of external clips, shard by shard, in small Parquet files: a killed run goes on where it was."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from orchestrator.data.audioset import Shard
from orchestrator.external_scoring import Chooser, score_stream
from orchestrator.runtime import Slots
from orchestrator.storage import Store

POOL = "all machines"
PREFIX = "external/"

LEDGER_SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("machine", pa.string()),  # predicted; empty where there is a problem
        ("score", pa.float64()),
        ("mid", pa.string()),
        ("row", pa.int64()),
        ("problem", pa.string()),
    ]
)


class Progress(NamedTuple):
    """How far the scoring is; `kept` is the size that the core-set would have if it ended now."""

    shards_done: int
    shards: int
    candidates: int
    kept: int
    problems: int


class Rule(NamedTuple):
    """Algorithm 2's limits: a_th for each machine (or for all together), and n_max clips within each."""

    limits: dict[str, float]
    most: int

    def place(self, machine: str) -> str:
        """Whose limit and number a machine's clips count against."""
        return POOL if POOL in self.limits else machine


def score_missing(
    shards: Sequence[Shard],
    ledger: Store,
    rule: Rule,
    *,
    chooser: Chooser,
    mids: Mapping[str, str],
    min_seconds: float,
    slots: Slots,
    on_progress: Callable[[Progress], None],
    say: Callable[[str], None],
) -> None:
    """Write the ledger of every shard that has none; rows of unfinished shards are all that is held here."""
    done, tally = ledger.names(), _Tally(rule, len(shards))
    todo = [index for index, shard in enumerate(shards) if _ledger_name(shard) not in done]
    for _, rows in ledgers([shard for shard in shards if _ledger_name(shard) in done], ledger):
        tally.add(rows.to_pylist(), finished=True)
    on_progress(tally.progress())
    if not todo:
        return
    if len(todo) < len(shards):
        say(f"core-set: {len(shards) - len(todo)} of {len(shards)} shards were scored before")
    pending: defaultdict[int, dict[int, list[dict[str, Any]]]] = defaultdict(dict)
    ends: dict[int, int] = {}
    for unit in score_stream(shards, todo, chooser=chooser, mids=mids, min_seconds=min_seconds, slots=slots):
        pending[unit.shard][unit.unit] = unit.clips
        if unit.last:
            ends[unit.shard] = unit.unit
        finished = len(pending[unit.shard]) == ends.get(unit.shard, -1) + 1
        if finished:
            parts = pending.pop(unit.shard)
            rows = [_ledger_row(clip) for number in sorted(parts) for clip in parts[number]]
            ledger.write_table(_ledger_name(shards[unit.shard]), pa.Table.from_pylist(rows, schema=LEDGER_SCHEMA))
        tally.add(unit.clips, finished)
        on_progress(tally.progress())
    assert not pending, "the stream ended before its shards"


class _Tally:
    """Counts for the display, from ledger rows and from units alike."""

    def __init__(self, rule: Rule, shards: int) -> None:
        self.rule, self.shards = rule, shards
        self.done = self.candidates = self.problems = 0
        self.below: Counter[str] = Counter()

    def add(self, clips: Iterable[Mapping[str, Any]], finished: bool) -> None:
        self.done += finished
        for clip in clips:
            self.candidates += 1
            self.problems += bool(clip["problem"])
            place = self.rule.place(clip["machine"])
            self.below[place] += not clip["problem"] and clip["score"] < self.rule.limits[place]

    def progress(self) -> Progress:
        kept = sum(min(self.rule.most, count) for count in self.below.values())
        return Progress(self.done, self.shards, self.candidates, kept, self.problems)


def _ledger_name(shard: Shard) -> str:
    return f"{shard.key}.parquet"


def _ledger_row(clip: Mapping[str, Any]) -> dict[str, Any]:
    row = {name: clip[name] for name in ("machine", "score", "mid", "row", "problem")}
    return row | {"clip_id": PREFIX + clip["video_id"]}


def ledgers(shards: Sequence[Shard], ledger: Store) -> Iterator[tuple[int, pa.Table]]:
    """One shard's rows at a time."""
    for index, shard in enumerate(shards):
        yield index, ledger.read_table(_ledger_name(shard))
