"""K-means, and what both ways of clustering promise: few clips, equal clips, threads, groups that are really there.

Shapes: N clips, D embedding size, G true groups.
"""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score
from threadpoolctl import threadpool_limits

from models.clustering import CLUSTERINGS, ensemble_clustering, kmeans, mixture_clustering


def line(*positions: float) -> np.ndarray:
    return np.array(positions)[:, None]


# --- k-means ---------------------------------------------------------------------------------------------------------


def test_k_means_of_far_groups_gives_their_means() -> None:
    found = kmeans(line(0, 1, 10, 12, 100), clusters=3, seed=0)
    assert sorted(found.centroid_KD[:, 0].tolist()) == [0.5, 11, 100]
    np.testing.assert_array_equal(found.centroid_KD[found.cluster_N][:, 0], [0.5, 0.5, 11, 11, 100])


def test_lengths_count_because_nothing_is_normalised() -> None:
    """Two directions and two lengths: the lengths are what is far apart."""
    embed_ND = np.array([[1, 0], [0, 1], [50, 0], [45, 20]])
    cluster_N = kmeans(embed_ND, clusters=2, seed=0).cluster_N
    assert cluster_N[0] == cluster_N[1] != cluster_N[2] == cluster_N[3]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 30), st.integers(1, 20), st.integers(0, 99))
def test_k_means_leaves_no_cluster_empty_and_its_centroids_are_means(clips: int, clusters: int, seed: int) -> None:
    embed_ND = np.random.default_rng(seed).integers(-2, 3, size=(clips, 2)).astype(float)
    found = kmeans(embed_ND, clusters=clusters, n_init=1, seed=seed)
    used = min(clusters, len({tuple(row) for row in embed_ND.tolist()}))
    assert len(found.centroid_KD) <= used
    assert set(found.cluster_N.tolist()) == set(range(len(found.centroid_KD)))
    for k, centroid in enumerate(found.centroid_KD):
        np.testing.assert_allclose(centroid, embed_ND[found.cluster_N == k].mean(axis=0), atol=1e-12)


def test_clips_that_differ_by_rounding_only_leave_no_gap() -> None:
    embed_ND = np.array([[1.0], [np.nextafter(1, 2)], [5.0]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = kmeans(embed_ND, clusters=3, seed=0)
    assert set(found.cluster_N.tolist()) == set(range(len(found.centroid_KD)))
    assert np.isfinite(found.centroid_KD).all()


# --- both methods ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", CLUSTERINGS)
@pytest.mark.parametrize("clips", [1, 2, 3, 4, 10, 24])
def test_a_few_clips_are_no_trouble(method: str, clips: int) -> None:
    rng = np.random.default_rng(clips)
    found = CLUSTERINGS[method](*rng.normal(size=(2, clips, 128)), clusters=16, threshold=0.95, n_init=1, seed=0)
    assert found.cluster_N.shape == (clips,)
    assert found.cluster_N.dtype == np.int64
    assert found.labels_KL.any(axis=1).all()
    assert found.labels_NL.shape == (clips, found.labels_KL.shape[1])


@pytest.mark.parametrize("method", CLUSTERINGS)
def test_equal_clips_have_one_label(method: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = CLUSTERINGS[method](np.full((50, 4), 0.1), np.full((50, 4), 0.3), n_init=1, seed=0)
    assert found.labels_KL.tolist() == [[True]]


@pytest.mark.parametrize("method", CLUSTERINGS)
def test_the_seed_decides_and_the_number_of_threads_does_not(method: str) -> None:
    rng = np.random.default_rng(0)
    spaces = rng.normal(size=(2, 600, 16)).astype(np.float32)
    runs = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            runs.append(CLUSTERINGS[method](*spaces, clusters=4, n_init=1, seed=5))
    np.testing.assert_array_equal(runs[0].cluster_N, runs[1].cluster_N)
    np.testing.assert_array_equal(runs[0].labels_KL, runs[1].labels_KL)


@pytest.mark.parametrize("method", CLUSTERINGS)
@pytest.mark.parametrize(
    ("spoilt", "clusters"),
    [(np.zeros((0, 3)), 4), (np.zeros(3), 4), (np.full((5, 2), np.nan), 4), (np.ones((5, 2)), 0)],
)
def test_what_cannot_be_clustered_is_refused(method: str, spoilt: np.ndarray, clusters: int) -> None:
    with pytest.raises(ValueError, match=r"clustering needs|clusters is 0"):
        CLUSTERINGS[method](spoilt, spoilt, clusters=clusters, seed=0)


def groups_of(groups: int, clips: int, seed: int, size: int = 128) -> tuple[np.ndarray, np.ndarray]:
    """Slanted groups, each stretched along a direction of its own."""
    rng = np.random.default_rng(seed)
    group_N = np.arange(clips) % groups
    stretch_GD = 0.5 * rng.normal(size=(groups, size))
    embed_ND = rng.normal(size=(groups, size))[group_N] + 0.1 * rng.normal(size=(clips, size))
    return embed_ND + stretch_GD[group_N] * rng.normal(size=(clips, 1)), group_N


@pytest.mark.parametrize(("groups", "clips"), [(1, 300), (3, 300), (5, 600)])
def test_the_mixture_finds_how_many_groups_there_are(groups: int, clips: int) -> None:
    target_ND, group_N = groups_of(groups, clips, seed=groups)
    found = mixture_clustering(np.zeros_like(target_ND), target_ND, clusters=7, n_init=2, seed=0)
    assert found.labels_KL.shape == (groups, groups)
    np.testing.assert_array_equal(found.labels_KL, np.eye(groups, dtype=bool))
    assert adjusted_rand_score(group_N, found.cluster_N) > 0.97


def test_the_mixture_never_has_more_components_than_asked() -> None:
    target_ND, _ = groups_of(6, 300, seed=0)
    assert len(mixture_clustering(target_ND, target_ND, clusters=2, n_init=1, seed=0).labels_KL) <= 2


def test_two_views_of_the_same_groups_agree_on_them() -> None:
    """k = 16 splits six groups; the merging takes most pieces of a group together again, and never mixes groups."""
    rng = np.random.default_rng(0)
    group_N = rng.integers(0, 6, 600)
    spaces = [rng.normal(size=(6, 32))[group_N] + 0.3 * rng.normal(size=(600, 32)) for _ in range(2)]
    found = ensemble_clustering(*spaces, n_init=3, seed=0)
    texts = np.array(["".join(map(str, row.astype(int))) for row in found.labels_NL])
    assert all(len(set(group_N[texts == text])) == 1 for text in texts)
    assert adjusted_rand_score(group_N, texts) > 0.9 > 0.7 > adjusted_rand_score(group_N, found.cluster_N)
