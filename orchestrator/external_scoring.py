"""Score external clips with h, as a stream on Ray Data: shards, decoded units, a pool of scorers, rows without audio.

Scorers on CPUs decode the shards that they score, so that no audio travels. Decode tasks of their own are for GPUs,
which they keep busy, and for shards too few or too uneven to be given out whole.

One row is one unit: up to 64 decoded clips of one shard, always the same ones, so that a clip's score does not depend
on the number of workers, on the order of the shards or on what died meanwhile.

Shapes: N clips of a unit, E = M * D size of z_cat, P places (machine, section), S seeds.
"""

import heapq
import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import ray
import torch
from numpy.typing import NDArray

from models.backend import anomaly_scores
from orchestrator.data.audioset import Shard
from orchestrator.data.external import Listed, listed_clips
from orchestrator.data.packing import pack
from orchestrator.data.waves import WaveBank
from orchestrator.errors import UserError
from orchestrator.recipes import ExtractorRecipe
from orchestrator.runtime import Slots
from orchestrator.scoring import load_backends
from orchestrator.storage import Store
from orchestrator.trainees.encoder import BATCH_CLIPS
from orchestrator.trainees.extractor import clip_samples, embed_by_each, load_extractor

UNIT_CLIPS = 64
DECODE_SHARE, SCORE_SHARE = 0.25, 0.75  # of a slot's CPUs: together one slot, so that nothing waits for ever
UNITS_HELD = 3  # units in the object store for each decode task and scorer
AHEAD = 2  # units, or shards, that wait for a scorer, each
MOST_UNEVEN = 1.1  # times its share that a scorer may have to do: else shards are decoded for all scorers
NOT_FINITE = "not finite: its embedding is not a number"

_CLIP = [("row", pa.int64()), ("video_id", pa.string()), ("mid", pa.string()), ("problem", pa.string())]
_UNIT = [("shard", pa.int64()), ("unit", pa.int32()), ("last", pa.bool_())]
UNIT_SCHEMA = pa.schema([*_UNIT, ("clips", pa.list_(pa.struct(_CLIP))), ("samples", pa.list_(pa.large_binary()))])
SCORED = pa.struct([*_CLIP, ("machine", pa.string()), ("score", pa.float64())])
SCORED_SCHEMA = pa.schema([*_UNIT, ("clips", pa.list_(SCORED))])


class Chooser(NamedTuple):
    """h: the members (a folder each, one per seed) whose mean score at one checkpoint chooses external clips."""

    folders: tuple[Store, ...]
    recipe: ExtractorRecipe
    epoch: int
    key: str  # of backends_<key>.npz


class ScoredUnit(NamedTuple):
    """What comes back of a unit; the last one of its shard holds no clip."""

    shard: int
    unit: int
    last: bool
    clips: list[dict[str, Any]]


def score_stream(
    shards: Sequence[Shard],
    todo: Sequence[int],
    *,
    chooser: Chooser,
    mids: Mapping[str, str],
    min_seconds: float,
    slots: Slots,
) -> Iterator[ScoredUnit]:
    """Score the candidates of the shards `todo` (indices) on the running Ray; units come in no order.

    Memory holds a few units a slot whatever the number of candidates: audio never leaves the scorers.
    """
    # imported here: a plan or a command line should not wait for Ray Data
    from ray.data import ActorPoolStrategy, DataContext, TaskPoolStrategy

    decoder = {
        "shards": ray.put(list(shards)),
        "mids": dict(mids),
        "min_seconds": min_seconds,
        "most_samples": clip_samples(chooser.recipe),  # scoring crops from the start (spec §2): no more need travel
    }
    scorers = slots.number * (1 if slots.gpus else slots.threads)
    cpus = slots.cpus if slots.gpus else slots.cpus / slots.threads
    decoding: dict[str, Any] = {"num_cpus": cpus}
    scoring: dict[str, Any] = {"num_cpus": cpus}  # the same: Ray Data then does both steps in the scorers
    waiting_bytes = None
    largest_first = sorted(todo, key=lambda i: shards[i].rows, reverse=True)
    if slots.gpus or _uneven([shards[i].rows for i in largest_first], scorers):
        decoders = _decoders(slots, scorers * SCORE_SHARE * cpus) if slots.gpus else scorers
        decoding = {"num_cpus": DECODE_SHARE * cpus, "compute": TaskPoolStrategy(size=min(len(todo), decoders))}
        scoring = {"num_cpus": SCORE_SHARE * cpus, "num_gpus": slots.gpus or None}
        waiting_bytes = UNITS_HELD * (scorers + decoders) * UNIT_CLIPS * 2 * clip_samples(chooser.recipe)
    with _silence(), DataContext.current(_settings(DataContext.get_current().copy(), waiting_bytes)):
        waiting = ray.data.from_items([{"shard": i} for i in largest_first], override_num_blocks=len(todo))
        units = waiting.map_batches(
            _decode_shards,  # type: ignore[arg-type]  # Ray's types know no keyword-only arguments
            fn_kwargs=decoder,
            batch_format="pyarrow",
            **decoding,
        )
        scored = units.map_batches(
            Scorer,
            fn_constructor_kwargs={"chooser": chooser},
            batch_size=1,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=scorers, max_tasks_in_flight_per_actor=AHEAD),
            **scoring,
        )
        try:
            tables: Any = scored.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
            for table in tables:
                yield from (ScoredUnit(**row) for row in table.to_pylist())
        except ray.exceptions.RayTaskError as error:
            raise own_fault(error) from error


@contextmanager
def _silence() -> Iterator[None]:
    """Ray Data tells of every start and end on the terminal; what fails is raised anyway."""
    logger = logging.getLogger("ray.data")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _settings(context: Any, waiting_bytes: int | None) -> Any:
    """Settings of our stream alone: a block is one unit, and there are no bars.

    Decoded units that wait for a scorer may take so many bytes; by default decoding runs ahead until half of the object
    store is full, however large that is. None where units do not travel.
    """
    context.target_min_block_size = context.target_max_block_size = 1
    if waiting_bytes:
        limits = context.execution_options.resource_limits
        context.execution_options.resource_limits = limits.copy(object_store_memory=waiting_bytes)
        context._max_num_blocks_in_streaming_gen_buffer = 1
        context.target_max_block_size = 1 << 20
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.enable_auto_log_stats = False
    return context


def _uneven(rows: Sequence[int], scorers: int) -> bool:
    """Whether a scorer would have far more than its share to do if shards were given out whole, in this order."""
    given = [0] * scorers
    for more in rows:
        heapq.heapreplace(given, given[0] + more)
    return max(given) > MOST_UNEVEN * sum(given) / scorers


def _decoders(slots: Slots, held: float) -> int:
    """Decode tasks beside GPU scorers: as many as CPUs are left, since decoding is then what takes the time."""
    return max(slots.number, int(ray.cluster_resources().get("CPU", 1) - held))


def own_fault(error: Exception) -> Exception:
    """The user's error inside a worker's, or the worker's own."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UserError) and not isinstance(cause, ray.exceptions.RayTaskError):
            return cause
        cause = getattr(cause, "cause", None) or cause.__cause__
    return error


def _decode_shards(
    batch: Any, *, shards: Any, mids: Mapping[str, str], min_seconds: float, most_samples: int
) -> Iterator[pa.Table]:
    """The units of some shards, each followed by an empty last one; repeated by Ray with the same content.

    A thread reads and decodes the next unit meanwhile: a store far away is waited for while this one is scored.
    """
    known: list[Shard] = ray.get(shards)
    with ThreadPoolExecutor(1, "decode", initializer=torch.set_num_threads, initargs=(1,)) as thread:
        for index in batch["shard"].to_pylist():
            clips = (_shortened(clip, most_samples) for clip in listed_clips(known[index], mids, min_seconds))
            number, coming = 0, thread.submit(_next_unit, clips)
            while unit := coming.result():
                coming = thread.submit(_next_unit, clips)
                yield _unit_row(index, number, unit)
                number += 1
            yield _unit_row(index, number, [])


def _next_unit(clips: Iterator[Listed]) -> list[Listed]:
    return list(islice(clips, UNIT_CLIPS))


def _shortened(clip: Listed, most_samples: int) -> Listed:
    return clip._replace(samples=clip.samples[:most_samples].copy()) if len(clip.samples) > most_samples else clip


def _unit_row(shard: int, number: int, clips: Sequence[Listed]) -> pa.Table:
    row = {
        "shard": shard,
        "unit": number,
        "last": not clips,
        "clips": [{name: getattr(clip, name) for name, _ in _CLIP} for clip in clips],
        "samples": [clip.samples.tobytes() for clip in clips],
    }
    return pa.Table.from_pylist([row], schema=UNIT_SCHEMA)


class Scorer:
    """An actor that holds the models of all seeds and their references; each batch is one unit."""

    def __init__(self, chooser: Chooser) -> None:
        given = ray.is_initialized() and ray.get_gpu_ids()  # asked without Ray, it would start one
        self.device = "cuda" if given and torch.cuda.is_available() else "cpu"
        if self.device == "cpu":
            torch.set_num_threads(1)  # the number of threads would show in the last digits
        recipe, epoch = chooser.recipe, chooser.epoch
        self.clip_samples = clip_samples(recipe)
        self.models = [load_extractor(folder, recipe, epoch, self.device) for folder in chooser.folders]
        self.backends = [load_backends(folder, chooser.key, epoch) for folder in chooser.folders]
        self.places = sorted(self.backends[0])

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows = [self._scored(row) for row in batch.to_pylist()]
        return pa.Table.from_pylist(rows, schema=SCORED_SCHEMA)

    def _scored(self, unit: dict[str, Any]) -> dict[str, Any]:
        samples = [np.frombuffer(data, np.int16) for data in unit.pop("samples")]
        usable = [clip for clip in unit["clips"] if not clip["problem"]]
        for clip in unit["clips"]:
            clip.update(machine="", score=None)
        if usable:
            score_PN = self.score([wave for wave in samples if len(wave)])
            for clip, score_P in zip(usable, score_PN.T, strict=True):
                self._judge(clip, score_P)
        return unit

    def _judge(self, clip: dict[str, Any], score_P: NDArray[np.float64]) -> None:
        """The machine of the smallest score: also the smallest over the sections of each machine."""
        if not np.isfinite(score_P).all():
            clip["problem"] = NOT_FINITE
            return
        best = int(score_P.argmin())  # the first in alphabetical order where several are as small
        clip.update(machine=self.places[best][0], score=float(score_P[best]))

    def score(self, clips: Sequence[NDArray[np.int16]]) -> NDArray[np.float64]:
        """h of each clip for each place, (P, N): the mean over the seeds of the smallest cosine distance."""
        bank = WaveBank([pack(clips)], self.device)
        batch = BATCH_CLIPS if self.device == "cpu" else UNIT_CLIPS
        with torch.inference_mode():
            waves = (bank.cut(rows, self.clip_samples) for rows in torch.arange(len(bank)).split(batch))
            parts = [embed_by_each(self.models, wave_BT) for wave_BT in waves]
        score_SPN = [
            [anomaly_scores(backends[place], np.concatenate(embeds)) for place in self.places]
            for backends, embeds in zip(self.backends, zip(*parts, strict=True), strict=True)
        ]
        return np.mean(score_SPN, axis=0)
