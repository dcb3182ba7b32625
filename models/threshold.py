"""From scores of normal training clips to the score above which a clip is called anomalous (spec §12)."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

FEWEST_FOR_A_FIT = 3
EQUAL = 1e-9  # spread relative to the largest score below which all scores count as one value


class Threshold(NamedTuple):
    """The threshold, and how it was found: a gamma fit, or the plain percentile where none was possible."""

    value: float
    method: str  # "gamma" or "percentile"


def gamma_threshold(score_N: NDArray[np.floating], percentile: float = 90.0) -> Threshold:
    """The percentile of a gamma distribution fitted to scores of normal clips (N,).

    The location is free, as in the challenge's baseline. Fewer than three scores, equal scores, or a fit that does
    not come out finite fall back to the plain percentile of the scores. ValueError: no score, or one is not finite.
    """
    score_N = np.asarray(score_N, dtype=np.float64)
    if not score_N.size or not np.isfinite(score_N).all():
        raise ValueError("a threshold needs at least one score, all finite")
    plain = Threshold(float(np.percentile(score_N, percentile)), "percentile")
    if len(score_N) < FEWEST_FOR_A_FIT or np.ptp(score_N) <= EQUAL * np.abs(score_N).max():
        return plain
    try:
        shape, location, scale = stats.gamma.fit(score_N)
    except stats.FitError:
        return plain
    value = float(stats.gamma.ppf(percentile / 100, shape, loc=location, scale=scale))
    # A fit that runs away puts the threshold far from every score it was fitted to.
    reach = 3 * np.ptp(score_N)
    sane = np.isfinite(value) and score_N.min() - reach <= value <= score_N.max() + reach
    return Threshold(value, "gamma") if sane else plain
