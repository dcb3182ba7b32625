"""The backend (spec §8): cosine distances by hand, few or no clips, and repeatable k-means."""

import math
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_info, threadpool_limits

from models.backend import Backend, anomaly_scores, fit_backend, unit

NONE = np.zeros((0, 2))


def _random(clips: int, size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(clips, size))


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(sum(a * b) / math.sqrt(sum(a * a)) / math.sqrt(sum(b * b)))


def test_unit_by_hand() -> None:
    by_hand = np.array([[0.6, 0.8], [0, 0], [0, -1]])
    np.testing.assert_allclose(unit(np.array([[3.0, 4.0], [0.0, 0.0], [0.0, -1e-3]])), by_hand)


def test_target_clips_alone_give_the_plain_cosine_distance() -> None:
    backend = fit_backend(NONE, np.array([[2.0, 0.0], [0.0, 3.0]]), seed=0)
    assert backend.clusters == 0
    scores = anomaly_scores(backend, np.array([[5.0, 0.0], [1.0, 1.0], [-1.0, -1.0], [-1.0, 0.0]]))
    np.testing.assert_allclose(scores, [0, 1 - math.sqrt(0.5), 1 + math.sqrt(0.5), 1], atol=1e-7)


def test_one_cluster_is_the_mean_of_unit_vectors_and_is_not_normalised_again() -> None:
    """Sources (10, 0) and (0, 1): the centre is (0.5, 0.5), of length 0.707; its own direction is 0.293 away."""
    backend = fit_backend(np.array([[10.0, 0.0], [0.0, 1.0]]), NONE, clusters=1, seed=0)
    np.testing.assert_allclose(backend.references_RE, [[0.5, 0.5]])
    scores = anomaly_scores(backend, np.array([[1.0, 1.0], [1.0, 0.0], [-1.0, 0.0]]))
    np.testing.assert_allclose(scores, [1 - math.sqrt(0.5), 0.5, 1.5], atol=1e-7)


def test_a_wide_cluster_loses_to_a_tight_one_at_the_same_angle() -> None:
    """Normalised again, both centres would be equally near to the diagonal and the narrow one would not win."""
    wide = [[math.cos(math.radians(a)), math.sin(math.radians(a)), 0] for a in (-40, 40)]
    backend = Backend(np.array([np.mean(wide, axis=0), [0, 0, 1]], dtype=np.float32), 2)
    scores = anomaly_scores(backend, np.array([[1.0, 0, 0], [0, 0, 1.0], [1.0, 0, 1.0]]))
    expected = [1 - math.cos(math.radians(40)), 0, 1 - math.sqrt(0.5)]
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    fitted = fit_backend(np.array([*wide, [0, 0, 1], [0, 0, 2]]), np.zeros((0, 3)), clusters=2, seed=0)
    np.testing.assert_allclose(anomaly_scores(fitted, np.array([[1.0, 0, 0], [0, 0, 1.0]])), expected[:2], atol=1e-6)


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 20), st.integers(0, 5), st.integers(1, 6), st.integers(1, 5), st.integers(0, 99))
def test_scores_equal_the_smallest_distance_by_loops(
    sources: int, targets: int, size: int, clusters: int, seed: int
) -> None:
    source, target, embed = _random(sources, size, seed), _random(targets, size, seed + 1), _random(7, size, seed + 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        backend = fit_backend(source, target, clusters=clusters, n_init=2, seed=seed)
    assert backend.clusters <= min(clusters, sources)
    assert len(backend.references_RE) == backend.clusters + targets
    scores = anomaly_scores(backend, embed)
    for b, score in enumerate(scores):
        to_targets = [1 - _cosine(embed[b], t) for t in target]
        to_centres = [
            1 - sum(embed[b] * c) / math.sqrt(sum(embed[b] ** 2)) for c in backend.references_RE[: backend.clusters]
        ]
        assert score == pytest.approx(min(to_targets + to_centres), abs=1e-5)
        assert -1e-6 <= score <= 2 + 1e-6


def test_centres_are_the_means_of_their_own_clips() -> None:
    source = _random(60, 4)
    backend = fit_backend(source, np.zeros((0, 4)), clusters=5, seed=1)
    lengths = np.linalg.norm(source, axis=1, keepdims=True)
    nearest = [min(range(5), key=lambda r: sum((x - backend.references_RE[r]) ** 2)) for x in source / lengths]
    for r in range(5):
        members = (source / lengths)[[n == r for n in nearest]]
        np.testing.assert_allclose(backend.references_RE[r], members.sum(axis=0) / len(members), atol=1e-5)


def test_only_the_direction_of_an_embedding_counts() -> None:
    source, target, embed = _random(30, 5), _random(3, 5, 1), _random(8, 5, 2)
    plain = anomaly_scores(fit_backend(source, target, seed=0), embed)
    loud = anomaly_scores(fit_backend(1e3 * source, 0.1 * target, seed=0), 1e-2 * embed)
    np.testing.assert_allclose(plain, loud, atol=1e-6)


def test_a_target_clip_is_its_own_reference() -> None:
    target = _random(4, 6)
    backend = fit_backend(_random(40, 6, 1), target, seed=0)
    np.testing.assert_allclose(anomaly_scores(backend, target), 0, atol=1e-6)


def test_no_target_clips_leave_the_centres_alone() -> None:
    backend = fit_backend(_random(40, 6), np.zeros((0, 6)), clusters=16, seed=0)
    assert backend.references_RE.shape == (16, 6)
    assert backend.references_RE.dtype == np.float32


@pytest.mark.parametrize("sources", [1, 2, 5])
def test_fewer_source_clips_than_clusters_use_one_cluster_a_clip(sources: int) -> None:
    source = _random(sources, 3)
    backend = fit_backend(source, np.zeros((0, 3)), clusters=16, seed=0)
    assert backend.clusters == sources
    np.testing.assert_allclose(anomaly_scores(backend, source), 0, atol=1e-6)


def test_duplicated_embeddings_count_once() -> None:
    """Twenty copies of two directions make two clusters, without a warning that k-means found fewer than asked."""
    source = np.tile([[1.0, 0.0], [0.0, 1.0]], (20, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backend = fit_backend(source, NONE, clusters=16, seed=0)
    assert backend.clusters == 2
    np.testing.assert_allclose(sorted(backend.references_RE.tolist()), [[0, 1], [1, 0]], atol=1e-7)


def test_neither_source_nor_target_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one training embedding"):
        fit_backend(NONE, NONE, seed=0)


def test_the_seed_decides_and_the_number_of_threads_does_not() -> None:
    """More than 256 clips, because k-means hands each thread chunks of that size."""
    source, target = _random(1500, 12).astype(np.float32), _random(10, 12, 1).astype(np.float32)
    fits = []
    for threads in (1, 2, 4):
        with threadpool_limits(threads):
            fits.append(fit_backend(source, target, n_init=2, seed=7).references_RE)
    assert all(np.array_equal(fits[0], other) for other in fits[1:])
    assert not np.array_equal(fits[0], fit_backend(source, target, n_init=2, seed=8).references_RE)


def test_k_means_runs_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """With more threads the float64 centres differ in their last digits, which a near-tie can blow up."""
    seen: list[int] = []

    fit = KMeans.fit

    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.extend(pool["num_threads"] for pool in threadpool_info())
        return fit(self, *args, **kwargs)

    monkeypatch.setattr(KMeans, "fit", watched)
    with threadpool_limits(4):
        fit_backend(_random(20, 3), np.zeros((0, 3)), clusters=2, seed=0)
    assert set(seen) == {1}
