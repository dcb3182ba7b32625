"""Batches: what has come in meanwhile, in order, and no failure or cancelled call disturbs the others."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from serving_world import sound, wav

from orchestrator.serving.bundle import Bundle
from orchestrator.serving.web.batching import Batcher
from orchestrator.serving.web.clips import Clip, Result
from orchestrator.serving.web.deployment import Plan, Scorer
from orchestrator.serving.web.scoring import ClipScorer, Heard


class Work:
    """Doubles numbers, slowly; refuses batches with a 13."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    async def __call__(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        await asyncio.sleep(0.02)
        if 13 in items:
            raise RuntimeError("13")
        return [2 * item for item in items]


def test_what_comes_in_meanwhile_is_the_next_batch() -> None:
    async def run() -> tuple[list[int], list[list[int]]]:
        work = Work()
        batcher: Batcher[int, int] = Batcher(work, 4)
        first = asyncio.create_task(batcher(0))
        await asyncio.sleep(0.005)
        rest = await asyncio.gather(*(batcher(i) for i in range(1, 8)))
        return [await first, *rest], work.batches

    outcomes, batches = asyncio.run(run())
    assert outcomes == [0, 2, 4, 6, 8, 10, 12, 14]
    assert batches == [[0], [1, 2, 3, 4], [5, 6, 7]]


def test_failures_reach_those_who_wait_and_cancelled_items_are_left_out() -> None:
    async def run() -> tuple[list[object], list[list[int]]]:
        work = Work()
        batcher: Batcher[int, int] = Batcher(work, 2)
        tasks = [asyncio.create_task(batcher(i)) for i in (1, 13, 2, 3, 4)]
        await asyncio.sleep(0.005)
        tasks[2].cancel()
        return await asyncio.gather(*tasks, return_exceptions=True), work.batches

    outcomes, batches = asyncio.run(run())
    assert [str(outcome) for outcome in outcomes] == ["13", "13", "", "6", "8"]
    assert isinstance(outcomes[2], asyncio.CancelledError)
    assert batches == [[1, 13], [3, 4]]


def test_a_clip_that_cannot_be_scored_does_not_take_the_others_with_it(exported: Path, monkeypatch) -> None:
    core = ClipScorer(Bundle.load(exported).scorer(), 600.0)
    rng = np.random.default_rng(5)
    clips = [Clip(wav(sound(900, rng, seconds)), "pump", None, False) for seconds in (0.5, 0.7, 0.6)]
    heard = [core.hear(clip) for clip in clips]
    real = core.scorer.score

    def score(waves, *rest):
        if any(len(wave) == 11_200 for wave in waves):
            raise RuntimeError("out of memory\nmore words")
        return real(waves, *rest)

    monkeypatch.setattr(core.scorer, "score", score)
    results = core.judge([clip for clip in heard if isinstance(clip, Heard)])
    assert [result.problem for result in results] == ["", "could not be scored: out of memory", ""]


def plan(model: Path) -> Plan:
    return Plan(str(model), None, "cpu", 1, 600.0, 8)


def test_a_scorer_answers_many_at_once(exported: Path) -> None:
    async def run() -> list[Result]:
        scorer = Scorer(plan(exported), 1)
        assert await scorer.alive()
        clips = [Clip(wav(sound(900, np.random.default_rng(i))), "pump", None, False) for i in range(40)]
        return await asyncio.gather(*(scorer(clip) for clip in [*clips, Clip(b"", "pump", None, False)]))

    *results, empty = asyncio.run(run())
    assert all(result.score is not None for result in results)
    assert empty.problem == "empty file"


def test_a_scorer_without_a_model_says_why(tmp_path: Path) -> None:
    async def run() -> tuple[bool, object]:
        scorer = Scorer(plan(tmp_path), 1)
        return await scorer.alive(), await scorer.facts()

    alive, told = asyncio.run(run())
    assert not alive
    assert "has no model in it" in str(told)


@pytest.mark.parametrize("seconds", [0.5, 5.0])
def test_what_is_kept_of_a_clip_is_what_the_networks_look_at(exported: Path, seconds: float) -> None:
    core = ClipScorer(Bundle.load(exported).scorer(), 600.0)
    heard = core.hear(Clip(wav(sound(900, np.random.default_rng(0), seconds)), "pump", None, False))
    assert isinstance(heard, Heard)
    assert (len(heard.wave), heard.seconds) == (min(16_000, int(seconds * 16_000)), seconds)
