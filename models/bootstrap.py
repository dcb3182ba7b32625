"""Whether one system beats another by more than the luck of the test clips: a paired bootstrap (spec §12).

Shapes: N test clips, R rounds, G distinct scores of one place.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.metrics import FLOOR, MAX_FALSE_POSITIVE_RATE, Flags, Floats, official_score, section_figures

INTERVAL = (2.5, 97.5)  # percentiles
NOISE = 1e-12  # differences below this are rounding, and count as none
ROUNDS_AT_ONCE = 1000  # bounds the memory to some 10 MB, whatever the number of rounds

Counts = NDArray[np.int64]


class BootstrapResult(NamedTuple):
    """Official score of system b minus that of a, in [-1, 1]; the 95 % interval; the two-sided p-value."""

    difference: float  # on the test clips as they are
    low: float
    high: float
    p_value: float
    rounds: int


class _Place(NamedTuple):
    """The test clips of one machine and section."""

    scores: tuple[Floats, Floats]  # of system a and b, each (N,)
    anomaly_N: Flags
    target_N: Flags


def paired_bootstrap(
    score_a_N: Floats,
    score_b_N: Floats,
    anomaly_N: Flags,
    target_N: Flags,
    place_N: ArrayLike,
    *,
    rounds: int = 1000,
    seed: int,
) -> BootstrapResult:
    """Compare two systems' official scores on the same test clips, drawn again and again.

    Each round draws as many clips as there are, with replacement, within every place (one machine and section, any
    code), domain and label; both systems are judged on the same drawn clips. The interval is between percentiles of the
    rounds' differences. The p-value is twice the smaller share of rounds whose difference is not above, or not below,
    zero; the real clips count as one more round on both sides, so p is at least 2 / (rounds + 1) and at most 1.
    It asks about other test clips, not about other training seeds.

    ValueError: lengths differ, a score is not finite, fewer than one round, or no place has both kinds of clips.
    """
    if rounds < 1:
        raise ValueError(f"a bootstrap needs at least one round, not {rounds}")
    places = _places(score_a_N, score_b_N, anomaly_N, target_N, place_N)
    difference = _official(places, 1) - _official(places, 0)
    generator = np.random.default_rng(seed)
    sizes = [min(ROUNDS_AT_ONCE, rounds - done) for done in range(0, rounds, ROUNDS_AT_ONCE)]
    drawn_R = np.concatenate([_drawn_differences(places, size, generator) for size in sizes])
    drawn_R[np.abs(drawn_R) < NOISE] = 0.0
    low, high = np.percentile(drawn_R, INTERVAL)
    smaller_side = 1 + min((drawn_R <= 0).sum(), (drawn_R >= 0).sum())
    p_value = min(1.0, float(2 * smaller_side / (rounds + 1)))
    return BootstrapResult(difference, float(low), float(high), p_value, rounds)


def _places(
    score_a_N: Floats, score_b_N: Floats, anomaly_N: Flags, target_N: Flags, place_N: ArrayLike
) -> list[_Place]:
    """The places that have a figure at all: those with normal and anomalous clips."""
    a_N, b_N = np.asarray(score_a_N, dtype=np.float64), np.asarray(score_b_N, dtype=np.float64)
    code_N, anomaly_N, target_N = np.asarray(place_N), np.asarray(anomaly_N, bool), np.asarray(target_N, bool)
    if len({len(column) for column in (a_N, b_N, anomaly_N, target_N, code_N)}) > 1:
        raise ValueError("scores, labels, domains and places must be of the same clips, so equally many")
    if not (np.isfinite(a_N).all() and np.isfinite(b_N).all()):
        raise ValueError("scores to compare must all be finite")
    chosen = [code_N == code for code in np.unique(code_N)]
    places = [_Place((a_N[own], b_N[own]), anomaly_N[own], target_N[own]) for own in chosen]
    places = [place for place in places if place.anomaly_N.any() and not place.anomaly_N.all()]
    if not places:
        raise ValueError("no place has both normal and anomalous test clips, so there is no score to compare")
    return places


def _official(places: list[_Place], system: int) -> float:
    score = official_score([section_figures(p.anomaly_N, p.target_N, p.scores[system]) for p in places])
    assert score is not None  # every place has a pAUC
    return score


def _drawn_differences(places: list[_Place], rounds: int, generator: np.random.Generator) -> Floats:
    """Official score of b minus a in each round: (R,)."""
    inverses_SR, figures = np.zeros((2, rounds)), 0
    for place in places:
        count_RN = draw_counts(place.anomaly_N, place.target_N, rounds, generator)
        for system, score_N in enumerate(place.scores):
            found = weighted_figures(score_N, place.anomaly_N, place.target_N, count_RN)
            inverses_SR[system] += sum(1 / np.maximum(figure_R, FLOOR) for figure_R in found)
        figures += len(found)
    score_SR = figures / inverses_SR
    return np.asarray(score_SR[1] - score_SR[0])


def draw_counts(anomaly_N: Flags, target_N: Flags, rounds: int, generator: np.random.Generator) -> Counts:
    """How often each clip is drawn in each round: (R, N); the sizes of domain and label stay as they are."""
    count_RN = np.zeros((rounds, len(anomaly_N)), dtype=np.int64)
    stratum_N = 2 * target_N + anomaly_N
    for stratum in np.unique(stratum_N):
        own = np.flatnonzero(stratum_N == stratum)
        count_RN[:, own] = generator.multinomial(len(own), np.full(len(own), 1 / len(own)), size=rounds)
    return count_RN


def weighted_figures(score_N: Floats, anomaly_N: Flags, target_N: Flags, count_RN: Counts) -> list[Floats]:
    """AUC source, AUC target and pAUC of clips that occur `count_RN` times, as far as they exist; each (R,).

    Equal to `section_figures(...).official` of repeated clips, for all rounds at once.
    """
    order = np.argsort(-score_N, kind="stable")
    starts_G = np.flatnonzero(np.diff(score_N[order], prepend=np.inf))  # ties make one step of the ROC curve
    count_RN = count_RN[:, order]

    def per_score(kind_N: Flags) -> Counts:
        return np.add.reduceat(count_RN * kind_N[order], starts_G, axis=1)

    hit_RG = per_score(anomaly_N)
    domains = [~anomaly_N & in_domain for in_domain in (~target_N, target_N)]
    areas = [_auc(hit_RG, per_score(normal_N)) for normal_N in domains if normal_N.any()]
    return [*areas, _partial_auc(hit_RG, per_score(~anomaly_N))]


def _auc(hit_RG: Counts, alarm_RG: Counts) -> Floats:
    """Area under the ROC curve from how many anomalies and normal clips have each score, the highest first."""
    above_RG = 2 * hit_RG.cumsum(axis=1) - hit_RG  # twice the anomalies above, ties half: whole numbers do not round
    pairs_R = hit_RG.sum(axis=1) * alarm_RG.sum(axis=1)
    return np.asarray((above_RG * alarm_RG).sum(axis=1) / (2 * pairs_R))


def _partial_auc(hit_RG: Counts, alarm_RG: Counts) -> Floats:
    """Area up to a false positive rate of 0.1, cut inside a step where need be, standardised to 0.5 at chance."""
    limit = MAX_FALSE_POSITIVE_RATE
    hits_R, alarms_R = hit_RG.sum(axis=1), alarm_RG.sum(axis=1)
    before_RG = alarm_RG.cumsum(axis=1) - alarm_RG
    width_RG = np.clip(limit * alarms_R[:, None] - before_RG, 0, alarm_RG)  # what of each step lies below the limit
    share_RG = width_RG / np.maximum(alarm_RG, 1)
    height_RG = hit_RG.cumsum(axis=1) - hit_RG + hit_RG * share_RG / 2  # middle of the trapezoid
    area_R = (width_RG * height_RG).sum(axis=1) / (hits_R * alarms_R)
    smallest = limit**2 / 2
    return np.asarray(0.5 * (1 + (area_R - smallest) / (limit - smallest)))
