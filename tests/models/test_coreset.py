"""Algorithm 2 (spec §11): by hand, against the paper's loop, and the stream against the whole."""

import math
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from models.coreset import BestClips, acceptance_threshold, select

FINITE = st.floats(-1e6, 1e6)


class Clip(NamedTuple):
    """A candidate; few ids and few scores, so that duplicates and ties are common."""

    score: float
    clip_id: str


TIED = st.builds(
    Clip, st.sampled_from([0.0, -0.0, 0.1, 0.2, 0.3, math.nan, math.inf, -math.inf]), st.text("ab", max_size=3)
)
CLIPS = st.lists(st.one_of(TIED, st.builds(Clip, FINITE, st.text(max_size=2))), max_size=60)


def picked(clips: list[Clip], threshold: float, most: int) -> list[Clip]:
    scores, ids = [clip.score for clip in clips], [clip.clip_id for clip in clips]
    return [clips[n] for n in select(np.array(scores, dtype=float), ids, threshold=threshold, most=most)]


def streamed(clips: list[Clip], most: int, threshold: float = math.inf) -> BestClips:
    best = BestClips(most)
    for clip in clips:
        if not clip.score >= threshold:
            best.offer(clip.score, clip.clip_id, (clip.score, clip.clip_id))
    return best


def by_the_paper(clips: list[Clip], threshold: float, most: int) -> list[Clip]:
    """Algorithm 2's loop on distinct ids, with n_max clips where the paper's `<=` would keep one more."""
    external: dict[str, float] = {}
    for clip in clips:
        if math.isfinite(clip.score):
            external[clip.clip_id] = min(clip.score, external.get(clip.clip_id, math.inf))
    core: list[Clip] = []
    while external and len(core) < most:
        x = min(external, key=lambda clip_id: (external[clip_id], clip_id))
        if not external[x] < threshold:
            break
        core.append(Clip(external.pop(x), x))
    return core


# --- the threshold ---------------------------------------------------------------------------------------------------


def test_thresholds_by_hand() -> None:
    scores = np.array([4.0, 0.0, 1.0, 2.0, 3.0])
    assert [acceptance_threshold(scores, q) for q in (0, 25, 50, 90, 100)] == pytest.approx([0, 1, 2, 3.6, 4])
    assert acceptance_threshold(np.array([0.7], np.float32), 37) == pytest.approx(0.7)


@given(npst.arrays(float, st.integers(1, 30), elements=FINITE))
def test_percentile_100_is_exactly_the_largest_score(scores: np.ndarray) -> None:
    assert acceptance_threshold(scores, 100) == scores.max()


@pytest.mark.parametrize("scores", [[], [1.0, math.nan], [math.inf]])
def test_a_threshold_needs_finite_scores(scores: list[float]) -> None:
    with pytest.raises(ValueError, match="at least one score"):
        acceptance_threshold(np.array(scores), 100)


@pytest.mark.parametrize("percentile", [-1, 100.1, math.nan])
def test_a_percentile_is_between_0_and_100(percentile: float) -> None:
    with pytest.raises(ValueError, match=r"must be in \[0, 100\]"):
        acceptance_threshold(np.ones(3), percentile)


# --- the selection ---------------------------------------------------------------------------------------------------


def test_the_smallest_scores_below_the_threshold_in_order() -> None:
    scores = np.array([0.5, 0.1, 0.3, 0.2, 0.4])
    assert select(scores, list("abcde"), threshold=0.4, most=10).tolist() == [1, 3, 2]
    assert select(scores, list("abcde"), threshold=0.41, most=10).tolist() == [1, 3, 2, 4]


@pytest.mark.parametrize("most", [0, 1, 99, 100, 101])
def test_exactly_so_many_are_kept(most: int) -> None:
    found = select(np.linspace(0, 1, 500), [f"{n:03d}" for n in range(500)], threshold=2, most=most)
    assert found.tolist() == list(range(most))
    assert found.dtype == np.int64


def test_ties_go_by_clip_id_and_not_by_position() -> None:
    assert select(np.array([1.0, 1, 0, 1]), list("dbzc"), threshold=2, most=3).tolist() == [2, 1, 3]


def test_an_id_counts_once_with_its_smallest_score() -> None:
    scores = np.array([0.3, 0.1, 0.2, 0.1, 0.25])
    assert select(scores, list("ababc"), threshold=1, most=2).tolist() == [1, 2]
    assert select(scores, list("ababc"), threshold=1, most=9).tolist() == [1, 2, 4]


def test_scores_that_are_not_finite_are_never_selected() -> None:
    scores = np.array([math.nan, math.inf, -math.inf, 0.5, math.nan])
    assert select(scores, list("abcde"), threshold=math.inf, most=9).tolist() == [3]
    assert select(scores, list("ddddd"), threshold=1, most=9).tolist() == [3]
    assert select(scores, list("abcde"), threshold=math.nan, most=9).tolist() == []


def test_nothing_in_nothing_out() -> None:
    assert select(np.array([]), [], threshold=1, most=5).tolist() == []
    assert select(np.array([2.0, 3.0]), ["a", "b"], threshold=1, most=5).tolist() == []


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="2 scores and 1 clip ids"):
        select(np.zeros(2), ["a"], threshold=1, most=5)
    for attempt in (lambda: select(np.zeros(1), ["a"], threshold=1, most=-1), lambda: BestClips(-1)):
        with pytest.raises(ValueError, match="most is -1"):
            attempt()


@settings(max_examples=200)
@given(CLIPS, st.one_of(FINITE, st.sampled_from([0.2, math.inf])), st.integers(0, 12))
def test_it_is_the_papers_loop(clips: list[Clip], threshold: float, most: int) -> None:
    assert picked(clips, threshold, most) == by_the_paper(clips, threshold, most)


# --- the stream ------------------------------------------------------------------------------------------------------


@settings(max_examples=200)
@given(st.data(), CLIPS, st.integers(0, 12))
def test_the_stream_keeps_what_select_selects_in_any_order(data: st.DataObject, clips: list[Clip], most: int) -> None:
    expected = [(*clip, clip) for clip in picked(clips, math.inf, most)]
    assert streamed(clips, most).sorted() == expected
    assert streamed(data.draw(st.permutations(clips)), most).sorted() == expected
    assert streamed(clips + clips[::-1], most).sorted() == expected


@settings(max_examples=200)
@given(st.data(), CLIPS, st.integers(0, 8), st.one_of(FINITE, st.just(0.2)))
def test_chunks_can_be_reduced_apart_and_then_together(
    data: st.DataObject, clips: list[Clip], most: int, threshold: float
) -> None:
    """What several workers keep, offered to one, is what one would have kept."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(clips)), max_size=4)))
    chunks = [clips[a:b] for a, b in zip([0, *cuts], [*cuts, len(clips)], strict=True)]
    together = BestClips(most)
    for chunk in data.draw(st.permutations(chunks)):
        for score, clip_id, payload in streamed(chunk, most, threshold).sorted():
            together.offer(score, clip_id, payload)
    assert [Clip(score, clip_id) for score, clip_id, _ in together.sorted()] == picked(clips, threshold, most)


@settings(max_examples=100)
@given(CLIPS, st.integers(0, 5))
def test_it_never_holds_more_than_asked(clips: list[Clip], most: int) -> None:
    best = BestClips(most)
    for clip in clips:
        best.offer(clip.score, clip.clip_id, None)
        assert len(best) == len(best.sorted()) == len(best._keys) == len(best._kept) <= most


def test_the_payload_is_that_of_the_smallest_score() -> None:
    best = BestClips(2)
    for score, clip_id, payload in ((3, "a", "first"), (1, "a", "better"), (2, "a", "worse"), (1, "a", "again")):
        best.offer(score, clip_id, payload)
    assert best.sorted() == [(1, "a", "better")]


def test_an_id_that_was_pushed_out_comes_back_with_a_better_score() -> None:
    best = BestClips(1)
    for score, clip_id in ((5.0, "a"), (3.0, "b"), (4.0, "a"), (2.0, "a"), (2.0, "b")):
        best.offer(score, clip_id, score)
    assert best.sorted() == [(2.0, "a", 2.0)]


def test_payloads_are_never_compared() -> None:
    best = BestClips(3)
    for clip_id in "cab":
        best.offer(0.5, clip_id, {"audio": object()})
    assert [clip_id for _, clip_id, _ in best.sorted()] == ["a", "b", "c"]


def test_a_long_stream_is_the_same_as_sorting() -> None:
    scores = np.random.default_rng(0).normal(size=50_000).round(3)
    ids = [f"clip{n:05d}" for n in np.random.default_rng(1).permutation(50_000)]
    best = BestClips(100)
    for score, clip_id in zip(scores, ids, strict=True):
        best.offer(score, clip_id, None)
    expected = sorted(zip(scores.tolist(), ids, strict=True))[:100]
    assert [(score, clip_id) for score, clip_id, _ in best.sorted()] == expected
