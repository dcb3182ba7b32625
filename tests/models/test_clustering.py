"""Algorithm 1 (spec §10): against the paper's pseudo-code with sets of clips, and cases worked out by hand.

Shapes: N clips, D embedding size, K target clusters, L reference clusters.
"""

import itertools
import time
import warnings
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score

from models.clustering import (
    LabelSets,
    Partition,
    bottom_up,
    ensemble_clustering,
    kmeans,
    merged_sets,
)


class Transcript(NamedTuple):
    """L^tgt by target cluster, and by how much the nearest pair beat the second nearest in the closest merge."""

    labels: dict[int, set[int]]
    margin: float


def by_the_paper(embed_ND: np.ndarray, ref: list[set[int]], tgt: list[set[int]], theta: float) -> Transcript:
    """Algorithm 1 line by line, on non-empty sets of clip indices; `embed_ND` are the reference embeddings."""
    margins = [np.inf]

    def centroid(cluster: set[int]) -> np.ndarray:
        return np.mean([embed_ND[n] for n in cluster], axis=0)

    def merge(C: list[set[int]], L: list[set[int]]) -> tuple[list[set[int]], list[set[int]], set[int], set[int]]:
        pairs = list(itertools.combinations(range(len(C)), 2))
        distances = [float(np.linalg.norm(centroid(C[a]) - centroid(C[b]))) for a, b in pairs]
        if len(distances) > 1:
            margins.append(sorted(distances)[1] - min(distances))
        i_1, i_2 = pairs[distances.index(min(distances))]
        C_new, L_new = C[i_1] | C[i_2], L[i_1] | L[i_2]
        rest = [i for i in range(len(C)) if i not in (i_1, i_2)]
        return [C[i] for i in rest] + [C_new], [L[i] for i in rest] + [L_new], C_new, L_new

    def assign(L_tgt: list[set[int]], C_new: set[int], L_new: set[int]) -> list[set[int]]:
        for i in range(len(tgt)):
            if L_tgt[i] == set() and len(tgt[i] & C_new) / len(tgt[i]) > theta:
                L_tgt[i] = L_new
        return L_tgt

    L_ref: list[set[int]] = [{i} for i in range(len(ref))]
    L_tgt: list[set[int]] = [set() for _ in tgt]
    for i in range(len(ref)):
        L_tgt = assign(L_tgt, ref[i], L_ref[i])
    C_ref = list(ref)
    for _ in range(len(ref) - 1):
        C_ref, L_ref, C_new, L_new = merge(C_ref, L_ref)
        L_tgt = assign(L_tgt, C_new, L_new)
    return Transcript(dict(enumerate(L_tgt)), min(margins))


def as_sets(cluster_N: np.ndarray) -> list[set[int]]:
    return [set(np.flatnonzero(cluster_N == k).tolist()) for k in range(cluster_N.max() + 1)]


def as_partition(embed_ND: np.ndarray, cluster_N: np.ndarray, clusters: int | None = None) -> Partition:
    """The centroid of a cluster without clips is not a number, so that any use of it would show."""
    centroid_KD = np.full((clusters or cluster_N.max() + 1, embed_ND.shape[1]), np.nan)
    for k in np.unique(cluster_N):
        centroid_KD[k] = embed_ND[cluster_N == k].mean(axis=0)
    return Partition(cluster_N.astype(np.int64), centroid_KD)


def label_rows(found: LabelSets) -> list[set[int]]:
    return [set(np.flatnonzero(row).tolist()) for row in found.labels_KL]


def random_clusters(clips: int, clusters: int, rng: np.random.Generator) -> np.ndarray:
    """At least one clip in each of at most `clusters` clusters."""
    return np.unique(rng.integers(0, clusters, clips), return_inverse=True)[1]


def line(*positions: float) -> np.ndarray:
    return np.array(positions)[:, None]


def same_as_the_paper(embed_ND: np.ndarray, ref_N: np.ndarray, tgt_N: np.ndarray, theta: float) -> float:
    literal = by_the_paper(embed_ND, as_sets(ref_N), as_sets(tgt_N), theta)
    found = bottom_up(as_partition(embed_ND, ref_N), as_partition(embed_ND, tgt_N), threshold=theta)
    if literal.margin > 1e-9:  # else the last digits of a mean decide which pair merges
        assert label_rows(found) == list(literal.labels.values())
    return literal.margin


# --- against the paper -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(300))
def test_it_is_the_papers_algorithm_on_random_partitions(seed: int) -> None:
    """Related partitions, as of two seeds: a random share of the clips keeps its cluster, so that all merges occur."""
    rng = np.random.default_rng(seed)
    clips, clusters = int(rng.integers(1, 60)), int(rng.integers(1, 11))
    embed_ND = rng.normal(size=(clips, int(rng.integers(1, 5))))
    ref_N = random_clusters(clips, clusters, rng)
    tgt_N = np.where(rng.random(clips) < rng.random(), ref_N, rng.integers(0, clusters, clips))
    tgt_N = np.unique(tgt_N, return_inverse=True)[1]
    theta = float(rng.choice([0, 0.3, 0.5, 0.75, 0.9, 0.95, 0.999]))
    assert same_as_the_paper(embed_ND, ref_N, tgt_N, theta) > 1e-9


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_it_is_the_papers_algorithm_on_whatever_hypothesis_finds(data: st.DataObject) -> None:
    clips = data.draw(st.integers(1, 25))
    numbers = st.lists(st.integers(0, 6), min_size=clips, max_size=clips)
    ref_N, tgt_N = (np.unique(data.draw(numbers), return_inverse=True)[1] for _ in range(2))
    embed_ND = np.random.default_rng(data.draw(st.integers(0, 99))).normal(size=(clips, 2))
    theta = data.draw(st.one_of(st.sampled_from([0, 0.5, 2 / 3, 0.75, 0.8, 0.95]), st.floats(0, 1, exclude_max=True)))
    assume(same_as_the_paper(embed_ND, ref_N, tgt_N, theta) > 1e-9)


@pytest.mark.parametrize("seed", range(20))
def test_it_is_the_papers_algorithm_on_k_means(seed: int) -> None:
    """The whole way, from two noisy views of the same seven groups."""
    rng = np.random.default_rng(seed)
    centre_GD, group_N = rng.normal(size=(7, 4)), rng.integers(0, 7, 120)
    spaces = [centre_GD[group_N] + 0.4 * rng.normal(size=(120, 4)) for _ in range(2)]
    ref, tgt = (kmeans(space, clusters=9, n_init=1, seed=seed) for space in spaces)
    literal = by_the_paper(spaces[0], as_sets(ref.cluster_N), as_sets(tgt.cluster_N), 0.9)
    found = ensemble_clustering(*spaces, clusters=9, threshold=0.9, n_init=1, seed=seed)
    assert literal.margin > 1e-9
    assert label_rows(found) == list(literal.labels.values())
    np.testing.assert_array_equal(found.cluster_N, tgt.cluster_N)


# --- by hand ---------------------------------------------------------------------------------------------------------


def test_a_cluster_that_straddles_two_reference_clusters_receives_both() -> None:
    """Reference clusters 0, 1, 2 of five clips at 0, 1 and 10. Target 0 is 60 % in 0 and 40 % in 1, target 1 is five
    clips of 2, target 2 is the remaining clips: two of 0 and three of 1.

    The first merge joins 0 and 1 (distance 1 against 9 and 10), which hold all of targets 0 and 2.
    """
    ref_N = np.repeat([0, 1, 2], 5)
    tgt_N = np.array([0, 0, 0, 2, 2] + [0, 0, 2, 2, 2] + [1] * 5)
    embed_ND = np.repeat(line(0, 1, 10), 5, axis=0)
    found = bottom_up(as_partition(embed_ND, ref_N), as_partition(embed_ND, tgt_N), threshold=0.95)
    assert label_rows(found) == [{0, 1}, {2}, {0, 1}]
    assert found.labels_NL.astype(int).tolist()[:5] == [[1, 1, 0]] * 5
    assert found.labels_NL.astype(int).tolist()[10:] == [[0, 0, 1]] * 5
    assert label_rows(bottom_up(as_partition(embed_ND, ref_N), as_partition(embed_ND, tgt_N), threshold=0.59)) == [
        {0},
        {2},
        {1},
    ]


def test_the_comparison_is_strict() -> None:
    """19 of 20 clips are exactly 0.95: not more, so that the cluster waits for the merge."""
    ref_N, tgt_N = np.array([0] * 19 + [1] + [2]), np.array([0] * 20 + [1])
    embed_ND = np.array(line(*[0] * 19, 1, 5))
    ref, tgt = as_partition(embed_ND, ref_N), as_partition(embed_ND, tgt_N)
    assert label_rows(bottom_up(ref, tgt, threshold=0.95)) == [{0, 1}, {2}]
    assert label_rows(bottom_up(ref, tgt, threshold=np.nextafter(0.95, 0))) == [{0}, {2}]


@pytest.mark.parametrize(("part", "whole"), [(p, w) for w in (3, 7, 10, 20, 49, 100) for p in (1, w // 2, w - 1)])
def test_the_comparison_is_strict_for_every_share(part: int, whole: int) -> None:
    ref_N = np.array([0] * part + [1] * (whole - part))
    embed_ND, tgt_N = ref_N[:, None].astype(float), np.zeros(whole, int)
    found = bottom_up(as_partition(embed_ND, ref_N), as_partition(embed_ND, tgt_N), threshold=part / whole)
    assert label_rows(found) == [{1} if whole - part > part else {0, 1}]


def test_the_centroid_of_a_union_is_the_mean_of_its_clips() -> None:
    """Cluster 0: nine clips at 0; 1: one clip at 2; 2: one at 3.1; 3: one at -2.4.

    0 and 2 apart would be 3.1; first 1 and 2 merge (1.1) to the mean 2.55, then 0 and 3 (2.4 against 2.55). Had cluster
    1 nine clips, the mean of 1 and 2 would lie at 2.11 and be merged with 0 before 3 is.
    """
    light = merged_sets(line(0, 2, 3.1, -2.4), np.array([9, 1, 1, 1]))
    assert light[4:].astype(int).tolist() == [[0, 1, 1, 0], [1, 0, 0, 1], [1, 1, 1, 1]]
    heavy = merged_sets(line(0, 2, 3.1, -2.4), np.array([9, 9, 1, 1]))
    assert heavy[4:].astype(int).tolist() == [[0, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 1]]


def test_ties_merge_the_first_pair_in_order() -> None:
    """0, 1, 2, 3 at equal steps: 0 and 1 first; 2 and 3 (distance 1) before 2 and the union at 0.5 (1.5)."""
    square = merged_sets(line(0, 1, 2, 3), np.ones(4))
    assert square[4:].astype(int).tolist() == [[1, 1, 0, 0], [0, 0, 1, 1], [1, 1, 1, 1]]
    later = merged_sets(
        line(5, 0, 2, 4), np.array([1, 1, 1, 1])
    )  # 3 and 0 are nearest (1); then 1-2 (2) before 2-new (2.5)
    assert later[4:].astype(int).tolist() == [[1, 0, 0, 1], [0, 1, 1, 0], [1, 1, 1, 1]]
    old_first = merged_sets(line(0, 1, 2.5, 4.5), np.ones(4))  # union at 0.5: 2 is 2 from 3 and 2 from the union
    assert old_first[4:].astype(int).tolist() == [[1, 1, 0, 0], [0, 0, 1, 1], [1, 1, 1, 1]]


def test_below_a_half_the_first_of_several_single_clusters_counts() -> None:
    ref_N, tgt_N = np.array([0, 1, 1, 1, 2]), np.zeros(5, int)
    embed_ND = line(0, 1, 1, 1, 9)
    found = [
        label_rows(bottom_up(as_partition(embed_ND, ref_N), as_partition(embed_ND, tgt_N), threshold=theta))
        for theta in (0.0, 0.2, 0.6, 0.8, 0.999)
    ]
    assert found == [[{0}], [{1}], [{0, 1}], [{0, 1, 2}], [{0, 1, 2}]]


@pytest.mark.parametrize("theta", [0.0, 0.5, 0.95, np.nextafter(1, 0)])
def test_identical_partitions_give_every_target_cluster_one_label(theta: float) -> None:
    rng = np.random.default_rng(0)
    embed_ND, cluster_N = rng.normal(size=(80, 3)), random_clusters(80, 8, rng)
    same = as_partition(embed_ND, cluster_N)
    assert label_rows(bottom_up(same, same, threshold=theta)) == [{k} for k in range(8)]
    found = ensemble_clustering(embed_ND, embed_ND, clusters=8, threshold=theta, n_init=2, seed=3)
    np.testing.assert_array_equal(found.labels_KL, np.eye(8, dtype=bool))


def test_just_below_one_every_clip_must_be_inside() -> None:
    """With one stray clip in a thousand the target cluster still waits for the merge with the stray's cluster."""
    ref_N = np.array([0] * 999 + [1] + [2] * 10)
    tgt_N = np.array([0] * 1000 + [1] * 10)
    embed_ND = np.array([0.0] * 999 + [7.0] + [1.0] * 10)[:, None]
    ref, tgt = as_partition(embed_ND, ref_N), as_partition(embed_ND, tgt_N)
    assert label_rows(bottom_up(ref, tgt, threshold=float(np.nextafter(1, 0)))) == [{0, 1, 2}, {2}]
    assert label_rows(bottom_up(ref, tgt, threshold=0.95)) == [{0}, {2}]


@pytest.mark.parametrize("theta", [0.0, 0.95])
def test_one_reference_cluster_is_the_only_label(theta: float) -> None:
    rng = np.random.default_rng(1)
    embed_ND = rng.normal(size=(20, 2))
    one, many = as_partition(embed_ND, np.zeros(20, int)), as_partition(embed_ND, random_clusters(20, 5, rng))
    assert label_rows(bottom_up(one, many, threshold=theta)) == [{0}] * 5
    assert label_rows(ensemble_clustering(embed_ND, embed_ND, clusters=1, threshold=theta, seed=0)) == [{0}]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 8), st.integers(0, 999))
def test_a_higher_threshold_never_leaves_fewer_labels(clips: int, clusters: int, seed: int) -> None:
    """Above a half, where the sets that qualify are nested."""
    rng = np.random.default_rng(seed)
    embed_ND = rng.normal(size=(clips, 2))
    ref, tgt = (as_partition(embed_ND, random_clusters(clips, clusters, rng)) for _ in range(2))
    low, high = (bottom_up(ref, tgt, threshold=theta).labels_KL for theta in (0.5, 0.9))
    assert not (low & ~high).any()
    assert low.any(axis=1).all()


# --- empty clusters --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(30))
def test_empty_clusters_change_nothing_for_the_others(seed: int) -> None:
    rng = np.random.default_rng(seed)
    embed_ND = rng.normal(size=(40, 3))
    ref_N, tgt_N = random_clusters(40, 6, rng), random_clusters(40, 6, rng)
    place_L, place_K = np.sort(rng.permutation(9)[:6]), np.sort(rng.permutation(9)[:6])
    dense = bottom_up(as_partition(embed_ND, ref_N), as_partition(embed_ND, tgt_N), threshold=0.6)
    gaps = bottom_up(
        as_partition(embed_ND, place_L[ref_N], 9), as_partition(embed_ND, place_K[tgt_N], 9), threshold=0.6
    )
    assert gaps.labels_KL.shape == (9, 9)
    np.testing.assert_array_equal(gaps.labels_NL[:, place_L], dense.labels_NL)
    empty_L, empty_K = np.setdiff1d(range(9), place_L), np.setdiff1d(range(9), place_K)
    assert not gaps.labels_KL[:, empty_L].any()
    assert gaps.labels_KL[np.ix_(empty_K, place_L)].all()


def test_duplicates_that_leave_a_cluster_empty() -> None:
    """Forty clips of three distinct embeddings: k-means makes three clusters, whatever was asked for."""
    which_N = np.arange(40) % 3
    reference_ND, target_ND = line(0, 1, 5)[which_N], line(7, 3, 0)[which_N]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = ensemble_clustering(reference_ND, target_ND, clusters=16, seed=0)
    assert found.labels_KL.shape == (3, 3)
    assert (found.labels_KL.sum(axis=1) == 1).all()
    assert adjusted_rand_score(which_N, found.labels_NL.argmax(axis=1)) == 1


# --- what is refused, and speed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("theta", [-0.01, 1.0, 1.5, float("nan")])
def test_a_threshold_outside_zero_to_one_is_refused(theta: float) -> None:
    one = as_partition(np.ones((3, 1)), np.zeros(3, int))
    with pytest.raises(ValueError, match=r"must be in \[0, 1\)"):
        bottom_up(one, one, threshold=theta)


def test_partitions_that_do_not_fit_together_are_refused() -> None:
    three, four = (Partition(np.zeros(n, np.int64), np.zeros((1, 2))) for n in (3, 4))
    with pytest.raises(ValueError, match="of the same clips, at least one, and have 3 and 4"):
        bottom_up(three, four, threshold=0.5)
    with pytest.raises(ValueError, match="at least one"):
        bottom_up(*[Partition(np.zeros(0, np.int64), np.zeros((1, 2)))] * 2, threshold=0.5)
    with pytest.raises(ValueError, match="target partition has clusters outside 0 to 0"):
        bottom_up(three, three._replace(cluster_N=np.array([0, 0, 1])), threshold=0.5)
    with pytest.raises(ValueError, match="not finite"):
        bottom_up(three._replace(centroid_KD=np.full((1, 2), np.inf)), three, threshold=0.5)


def test_many_clips_and_clusters_take_no_time() -> None:
    rng = np.random.default_rng(0)
    ref, tgt = (Partition(rng.integers(0, 64, 10_000), rng.normal(size=(64, 128))) for _ in range(2))
    begin = time.perf_counter()
    assert bottom_up(ref, tgt, threshold=0.95).labels_KL.any(axis=1).all()
    assert time.perf_counter() - begin < 2  # 0.02 s on a quiet machine
