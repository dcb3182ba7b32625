"""Candidates scored for the core-set per second: through Ray Data, and in a plain loop of one process."""

import io
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from orchestrator.config import ClusterConfig, CoreSetConfig, ExternalSource
from orchestrator.data.audioset import Shard, find_shards
from orchestrator.data.external import listed_clips
from orchestrator.data.synth.external import SCHEMA
from orchestrator.data.synth.faults import encode
from orchestrator.external_scoring import UNIT_CLIPS, Chooser, Scorer, score_stream
from orchestrator.members import checkpoint_name
from orchestrator.recipes import BranchConfig, ExtractorRecipe
from orchestrator.runtime import find_slots
from orchestrator.storage import Store
from orchestrator.trainees.extractor import build_extractor

MID = "/m/02x984l"  # Mechanical fan
CLIPS_A_SHARD = 64
SEEDS = 5


class World(NamedTuple):
    """Shards of noise and a chooser with random weights: what they hold changes no time."""

    shards: list[Shard]
    chooser: Chooser
    mids: dict[str, str]


def write_world(
    folder: Path, clips: int, *, seconds: float = 10.0, seeds: int = SEEDS, branches: tuple[BranchConfig, ...] = ()
) -> World:
    """Write `clips` candidates (WAV, 16 kHz) in shards and h of so many seeds; two machines, 16 references each."""
    home = folder / f"external-{clips}"
    home.mkdir()
    rng = np.random.default_rng(0)
    for first in range(0, clips, CLIPS_A_SHARD):
        rows = [_candidate(rng, number, seconds) for number in range(first, min(clips, first + CLIPS_A_SHARD))]
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), home / f"{first:08d}.parquet")
    given = {"branches": branches} if branches else {}
    recipe = ExtractorRecipe(clip_seconds=seconds, epochs=1, checkpoints=(1,), **given)
    stores = tuple(Store.at(home / f"member{seed}") for seed in range(seeds))
    for seed, store in enumerate(stores):
        _write_member(store, recipe, seed)
    shards = find_shards(CoreSetConfig(sources=(ExternalSource(parquet=(str(home),)),), group="h", classes=(MID,)))
    return World(shards, Chooser(stores, recipe, 1, "bench"), {MID: "Mechanical fan"})


def _candidate(rng: np.random.Generator, number: int, seconds: float) -> dict[str, object]:
    sound = encode(rng.normal(0, 0.1, round(seconds * 16000)), 16000)
    audio = {"bytes": sound, "path": None}
    return {"video_id": f"v{number:08d}", "audio": audio, "labels": [MID], "human_labels": []}


def _write_member(store: Store, recipe: ExtractorRecipe, seed: int) -> None:
    torch.manual_seed(seed)
    weights, references = io.BytesIO(), io.BytesIO()
    torch.save({"model": build_extractor(recipe).state_dict()}, weights)
    size = len(recipe.branches) * recipe.embedding_dim
    rng = np.random.default_rng(seed)
    arrays: dict[str, Any] = {f"{m}/00/1": rng.normal(size=(16, size)).astype(np.float32) for m in ("fan", "saw")}
    np.savez(references, **arrays)
    store.write(checkpoint_name(1), weights.getvalue())
    store.write("backends_bench.npz", references.getvalue())


def plain_loop(world: World) -> Iterator[int]:
    """Read, decode and score in this process, unit by unit; yields how many clips each had."""
    scorer = Scorer(world.chooser)
    for shard in world.shards:
        waiting = []
        for clip in listed_clips(shard, world.mids, 0.5):
            waiting.append(clip.samples)
            if len(waiting) == UNIT_CLIPS:
                scorer.score(waiting)
                yield len(waiting)
                waiting = []
        if waiting:
            scorer.score(waiting)
            yield len(waiting)


def stream(world: World, cluster: ClusterConfig) -> Iterator[int]:
    """The same through Ray Data, on the running Ray."""
    slots = find_slots(cluster, 1000)
    todo = range(len(world.shards))
    units = score_stream(world.shards, todo, chooser=world.chooser, mids=world.mids, min_seconds=0.5, slots=slots)
    for unit in units:
        yield len(unit.clips)


def steady_rate(counts: Iterator[int], side_by_side: int = 1, seconds: float = math.inf) -> tuple[float, float]:
    """(clips/s between the first and the last unit, clips/s with the start); ends after so many seconds.

    Of `side_by_side` units that are worked at a time, the first ones belong to the start: it ends at their mean end.
    """
    began, first, clips, head, units = time.perf_counter(), 0.0, 0, 0, 0
    now = began
    for count in filter(None, counts):
        now = time.perf_counter()
        clips, units = clips + count, units + 1
        if units <= side_by_side:
            first, head = first + now / side_by_side, clips
        elif now - began > seconds:
            break
    if units <= side_by_side:
        raise ValueError(f"{units} units are too few to see a rate of {side_by_side} at a time")
    return (clips - head) / (now - first), clips / (now - began)
