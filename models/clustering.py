"""Pseudo-attribute labels: cluster the clips of one machine in two spaces and let the spaces settle how fine the
labels may be (paper §3.2.2, Algorithm 1, spec §10).

Shapes: N clips, D embedding size, K (target) clusters, L reference clusters = labels, S sets of reference clusters.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits

Floats = NDArray[np.floating]

MIXTURE_DIMS = 8  # principal components at most; on simulated clusters 16 were as good and slower, 4 were worse
MIXTURE_FLOOR = 1e-3  # of a component's variances, where 1 is the mean variance: equal clips are no infinite density


class Partition(NamedTuple):
    """Clips divided into clusters. K may exceed the clusters that hold a clip; the centroid of an empty one is unused.

    A centroid is the mean of its cluster's clips.
    """

    cluster_N: NDArray[np.int64]  # 0 to K - 1
    centroid_KD: NDArray[np.float64]


class LabelSets(NamedTuple):
    """Which labels a clip may have: those of its target cluster, at least one."""

    cluster_N: NDArray[np.int64]  # 0 to K - 1
    labels_KL: NDArray[np.bool_]

    @property
    def labels_NL(self) -> NDArray[np.bool_]:
        """The label set of every clip."""
        return self.labels_KL[self.cluster_N]


def kmeans(embed_ND: Floats, *, clusters: int, n_init: int = 10, seed: int) -> Partition:
    """Divide clips into at most `clusters` groups of near embeddings; none of the groups is empty.

    The embeddings are not normalised: the triplet loss that shaped the space measures Euclidean distances (paper eq.
    11, 12), so that lengths carry meaning. Fewer distinct clips than clusters make fewer clusters. ValueError: no clip,
    no cluster, or a value that is not finite.
    """
    embed = _checked(embed_ND, clusters)
    used = min(clusters, len(np.unique(embed, axis=0)))
    with threadpool_limits(1):  # the order of sums, and so the last digits, would depend on the number of threads
        found_N = KMeans(used, n_init=n_init, random_state=seed).fit_predict(embed)
    cluster_N = _renumbered(found_N)  # k-means leaves clusters empty where clips differ by rounding only
    return Partition(cluster_N, np.stack([embed[cluster_N == k].mean(axis=0) for k in range(cluster_N.max() + 1)]))


def bottom_up(reference: Partition, target: Partition, *, threshold: float) -> LabelSets:
    """Algorithm 1: give each target cluster the first set of reference clusters that holds more than `threshold` of it.

    The sets come in this order: every reference cluster alone, then the union made by each merge of the two with the
    nearest centroids. The last one holds all clips, so a cluster that fits nowhere before has all labels. A threshold
    below 0.5 may let several single clusters qualify: the first in order counts. An empty target cluster gets all
    labels. ValueError: a threshold outside [0, 1), or partitions that are not of the same clips.
    """
    if not 0 <= threshold < 1:
        raise ValueError(f"threshold is {threshold}, and must be in [0, 1): more than all of a cluster is never inside")
    _check_partitions(reference, target)
    overlap_KL = _overlap(target, reference)
    sets_SL = merged_sets(reference.centroid_KD, overlap_KL.sum(axis=0))
    size_K = overlap_KL.sum(axis=1)
    # A quotient, as in the paper: 0.95 * 20 may round to below 19, but 19 / 20 is exactly the number written as 0.95.
    fits_KS = overlap_KL @ sets_SL.T / np.maximum(size_K, 1)[:, None] > threshold
    fits_KS[:, -1] = True  # it holds everything, and so the nothing that an empty cluster has
    return LabelSets(target.cluster_N, sets_SL[fits_KS.argmax(axis=1)])


def merged_sets(centroid_LD: Floats, size_L: Floats) -> NDArray[np.bool_]:
    """All clusters that bottom-up merging passes through: bool (S, L), each row the members of one of them.

    First the single clusters in order, then the union of each merge; S = 2 * clusters - 1, the last holds all. Clusters
    without clips take no part. Merging takes the pair with the smallest Euclidean distance between centroids, and the
    centroid of a union is the mean of its clips. Of equally near pairs (a, b), a before b, the one with the earliest a
    counts, then with the earliest b, where the order is that of the rows returned.
    """
    alone = np.flatnonzero(size_L)
    total = 2 * len(alone) - 1
    sets_SL = np.zeros((total, len(size_L)), bool)
    sets_SL[np.arange(len(alone)), alone] = True
    centroid_SD = np.zeros((total, centroid_LD.shape[1]))
    centroid_SD[: len(alone)] = centroid_LD[alone]
    distance_SS = np.full((total, total), np.inf)  # [a, b] with a before b; infinite where one of them is not there
    later = np.triu_indices(len(alone), 1)
    distance_SS[later] = cdist(centroid_LD[alone], centroid_LD[alone])[later]
    there_S = np.arange(total) < len(alone)
    for new in range(len(alone), total):
        pair = list(np.unravel_index(distance_SS.argmin(), distance_SS.shape))
        sets_SL[new] = sets_SL[pair].any(axis=0)
        centroid_SD[new] = np.average(centroid_SD[pair], axis=0, weights=sets_SL[pair] @ size_L)
        there_S[pair] = False
        distance_SS[pair] = distance_SS[:, pair] = np.inf
        distance_SS[there_S, new] = cdist(centroid_SD[there_S], centroid_SD[[new]])[:, 0]
        there_S[new] = True
    return sets_SL


def ensemble_clustering(
    reference_ND: Floats, target_ND: Floats, *, clusters: int = 16, threshold: float = 0.95, n_init: int = 10, seed: int
) -> LabelSets:
    """Label the clips of one machine from two embeddings of each: k-means in both spaces, then Algorithm 1.

    Both k-means use the same seed, so that equal spaces give every clip exactly one label. ValueError as in `kmeans`
    and `bottom_up`.
    """
    reference = kmeans(reference_ND, clusters=clusters, n_init=n_init, seed=seed)
    target = kmeans(target_ND, clusters=clusters, n_init=n_init, seed=seed)
    return bottom_up(reference, target, threshold=threshold)


def mixture_clustering(
    reference_ND: Floats, target_ND: Floats, *, clusters: int = 16, threshold: float = 0.95, n_init: int = 10, seed: int
) -> LabelSets:
    """Label clips by the Gaussian component that they most likely came from; BIC says how many there are.

    The alternative to Algorithm 1: 1 to `clusters` components, one label a clip, from the target space alone;
    `reference_ND` and `threshold` are there for the interface and change nothing. Full covariances on the leading
    principal components: all 128 dimensions would need 8384 numbers a component, diagonal ones cut a slanted cluster
    into pieces. ValueError as in `kmeans`.
    """
    embed = _checked(target_ND, clusters)
    leading_NP = _leading(embed)
    enough = len(embed) // (leading_NP.shape[1] + 1)  # a covariance of P dimensions needs P + 1 clips
    used = min(clusters, len(np.unique(embed, axis=0)), max(1, enough))
    if used == 1:
        return LabelSets(np.zeros(len(embed), np.int64), np.ones((1, 1), bool))
    with threadpool_limits(1):
        models = [_mixture(leading_NP, components, n_init, seed) for components in range(1, used + 1)]
        best = min(models, key=lambda model: float(model.bic(leading_NP)))  # of equal ones the smallest
        cluster_N = _renumbered(best.predict(leading_NP))
    return LabelSets(cluster_N, np.eye(cluster_N.max() + 1, dtype=bool))


CLUSTERINGS: Mapping[str, Callable[..., LabelSets]] = {
    "bottom_up": ensemble_clustering,
    "mixture": mixture_clustering,
}


def _checked(embed_ND: Floats, clusters: int) -> NDArray[np.float64]:
    embed = np.asarray(embed_ND, dtype=np.float64)
    if embed.ndim != 2 or not embed.size or not np.isfinite(embed).all():
        raise ValueError(f"clustering needs a table of finite embeddings, clips by size, and got shape {embed.shape}")
    if clusters < 1:
        raise ValueError(f"clusters is {clusters}, and must be at least 1")
    return embed


def _check_partitions(reference: Partition, target: Partition) -> None:
    if len(reference.cluster_N) != len(target.cluster_N) or not len(target.cluster_N):
        clips = f"{len(reference.cluster_N)} and {len(target.cluster_N)}"
        raise ValueError(f"the two partitions must be of the same clips, at least one, and have {clips}")
    for name, (cluster_N, centroid_KD) in {"reference": reference, "target": target}.items():
        if cluster_N.min() < 0 or cluster_N.max() >= len(centroid_KD):
            raise ValueError(f"the {name} partition has clusters outside 0 to {len(centroid_KD) - 1}")
    if not np.isfinite(reference.centroid_KD[reference.cluster_N]).all():
        raise ValueError("a reference cluster with clips has a centroid that is not finite")


def _overlap(target: Partition, reference: Partition) -> NDArray[np.float64]:
    """How many clips each target cluster shares with each reference cluster: whole numbers, (K, L)."""
    shape = len(target.centroid_KD), len(reference.centroid_KD)
    pair_N = np.ravel_multi_index((target.cluster_N, reference.cluster_N), shape)
    return np.bincount(pair_N, minlength=shape[0] * shape[1]).reshape(shape).astype(np.float64)


def _renumbered(found_N: NDArray[np.integer]) -> NDArray[np.int64]:
    """The same groups, numbered 0, 1, ... without gaps and in the same order."""
    return np.unique(found_N, return_inverse=True)[1].astype(np.int64)


def _leading(embed_ND: NDArray[np.float64]) -> NDArray[np.float64]:
    """Project on the leading principal components, at most half the root of the clips, with mean variance 1."""
    clips, size = embed_ND.shape
    dims = min(MIXTURE_DIMS, size, max(1, math.isqrt(clips) // 2))
    with threadpool_limits(1), np.errstate(invalid="ignore"):  # equal clips have no variance to explain
        leading_NP = PCA(dims, svd_solver="full").fit_transform(embed_ND)
    spread = np.sqrt(leading_NP.var(axis=0).mean())
    return leading_NP / spread if spread else leading_NP


def _mixture(leading_NP: NDArray[np.float64], components: int, n_init: int, seed: int) -> GaussianMixture:
    model = GaussianMixture(components, n_init=n_init, reg_covar=MIXTURE_FLOOR, random_state=seed)
    return model.fit(leading_NP)
