"""The anomaly score: how far an embedding is from everything that was normal in training (paper §2.3).

Shapes: A training clips, B clips, E = M * D size of z_cat, R references.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

Floats = NDArray[np.floating]


class Backend(NamedTuple):
    """What scoring one machine needs: k-means centres of the source clips, then the target clips themselves."""

    references_RE: Floats
    clusters: int  # centres among the references; fewer than asked for where there were fewer source clips


def unit(embed_BE: Floats) -> NDArray[np.float64]:
    """L2-normalise each row; a zero row stays zero."""
    embed = np.asarray(embed_BE, dtype=np.float64)
    return embed / np.maximum(np.linalg.norm(embed, axis=1, keepdims=True), 1e-12)


def fit_backend(source_AE: Floats, target_AE: Floats, *, clusters: int = 16, n_init: int = 10, seed: int) -> Backend:
    """Cluster the source embeddings and keep the target ones. ValueError where there is neither.

    The centres are means of unit vectors and are not normalised again (spec §8): a wide cluster's centre is shorter,
    so that its clips keep some distance.
    """
    if not len(source_AE) + len(target_AE):
        raise ValueError("a backend needs at least one training embedding")
    source, target = unit(source_AE), unit(target_AE)
    distinct = len(np.unique(source, axis=0)) if len(source) else 0
    used = min(clusters, distinct)
    if not used:
        return Backend(target.astype(np.float32), 0)
    with threadpool_limits(1):  # the order of sums, and so the last digits, would depend on the number of threads
        centres = KMeans(used, n_init=n_init, random_state=seed).fit(source).cluster_centers_
    references = np.concatenate([centres, target]) if len(target) else centres
    return Backend(references.astype(np.float32), used)


def anomaly_scores(backend: Backend, embed_BE: Floats) -> NDArray[np.float64]:
    """The smallest cosine distance to any reference: (B, E) -> (B,), about 0 (normal) to 2 (opposite)."""
    return 1.0 - (unit(embed_BE) @ backend.references_RE.astype(np.float64).T).max(axis=1)
