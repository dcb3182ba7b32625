"""Which external clips are kept: those that h finds more normal than original recordings (paper §3.3, Algorithm 2).

Shapes: N external clips.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]


def acceptance_threshold(original_N: Floats, percentile: float) -> float:
    """a_th: the score below which an external clip passes for an original one; percentile 100 is the largest score.

    Between two scores it is interpolated linearly. ValueError: no score, one is not finite, or a percentile outside
    [0, 100].
    """
    scores = np.asarray(original_N, dtype=np.float64)
    if not scores.size or not np.isfinite(scores).all():
        raise ValueError("the core-set's threshold needs at least one score of an original clip, all finite")
    if not 0 <= percentile <= 100:
        raise ValueError(f"percentile is {percentile}, and must be in [0, 100]")
    return float(np.percentile(scores, percentile))


def select(score_N: Floats, clip_ids: Sequence[str], *, threshold: float, most: int) -> NDArray[np.int64]:
    """Algorithm 2: the positions of at most `most` clips with a score below `threshold`, the smallest score first.

    Ties are ordered by clip id. An id that occurs several times counts once, with its smallest score (and there with
    its first position). A score that is not finite is never selected. The paper's loop would keep n_max + 1 clips;
    this keeps n_max (spec §11). ValueError: a negative number of clips, or not one id a score.
    """
    scores = np.asarray(score_N, dtype=np.float64)
    if len(scores) != len(clip_ids):
        raise ValueError(f"{len(scores)} scores and {len(clip_ids)} clip ids: there must be one of each a clip")
    _check_most(most)
    passing = np.flatnonzero(np.isfinite(scores) & (scores < threshold)).tolist()
    ordered = sorted(passing, key=lambda position: (scores[position], clip_ids[position]))
    best: dict[str, int] = {}
    for position in ordered:
        best.setdefault(clip_ids[position], position)
    return np.array(list(best.values())[:most], dtype=np.int64)


class BestClips:
    """The `most` clips with the smallest scores of a stream that is too long to hold; the memory is O(most).

    What is kept depends on what was offered, not on the order: ties are broken by clip id, and an id offered several
    times counts with its smallest score. Of offers equal in score and id the first payload stays.
    """

    def __init__(self, most: int) -> None:
        """ValueError: a negative number of clips."""
        _check_most(most)
        self._most = most
        self._keys: list[tuple[float, str]] = []  # sorted
        self._kept: dict[str, tuple[float, Any]] = {}  # by clip id; the same clips

    def __len__(self) -> int:
        return len(self._keys)

    def offer(self, score: float, clip_id: str, payload: Any) -> None:
        """Keep this clip if it is among the best so far; a score that is not finite never is."""
        key = (float(score), clip_id)
        full = len(self._keys) >= self._most
        if not isfinite(score) or (full and (not self._keys or key >= self._keys[-1])):
            return
        if clip_id in self._kept:
            if score >= self._kept[clip_id][0]:
                return
            self._drop(clip_id)
        elif full:
            self._drop(self._keys[-1][1])
        insort(self._keys, key)
        self._kept[clip_id] = (float(score), payload)

    def sorted(self) -> list[tuple[float, str, Any]]:
        """What is kept so far as (score, clip id, payload), the smallest score first."""
        return [(score, clip_id, self._kept[clip_id][1]) for score, clip_id in self._keys]

    def _drop(self, clip_id: str) -> None:
        score, _ = self._kept.pop(clip_id)
        del self._keys[bisect_left(self._keys, (score, clip_id))]


def _check_most(most: int) -> None:
    if most < 0:
        raise ValueError(f"most is {most}, and must be at least 0: a number of clips")
