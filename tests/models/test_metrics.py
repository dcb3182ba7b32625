"""The official figures: by hand, in their limits, and for any scores."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from sklearn.metrics import f1_score, precision_score, recall_score

from models.metrics import (
    FLOOR,
    SectionFigures,
    arithmetic_mean,
    decision_figures,
    domain_auc,
    harmonic_mean,
    official_score,
    partial_auc,
    section_figures,
)

# Source: normals 1, 4 and anomaly 3. Target: normals 2, 6 and anomaly 5.
ANOMALY = np.array([0, 0, 1, 0, 0, 1], dtype=bool)
TARGET = np.array([0, 0, 0, 1, 1, 1], dtype=bool)
SCORE = np.array([1.0, 4, 3, 2, 6, 5])
DECISION = np.array([0, 1, 1, 0, 1, 0], dtype=bool)


def flags(size: int):
    return npst.arrays(bool, size)


def pairs_auc(normal, anomalous) -> float:
    """AUC as what it means: how often an anomaly scores above a normal clip, ties counting half."""
    wins = [1.0 if a > n else 0.5 if a == n else 0.0 for a in anomalous for n in normal]
    return sum(wins) / len(wins)


def test_a_domains_normals_meet_the_anomalies_of_both_domains():
    figures = section_figures(ANOMALY, TARGET, SCORE, DECISION)
    assert figures.auc_source == pytest.approx(3 / 4)  # 1, 4 against 3, 5: only 3 < 4 is wrong
    assert figures.auc_target == pytest.approx(2 / 4)  # 2, 6 against 3, 5: 6 beats both
    assert figures.auc_all == pytest.approx(5 / 8)


def test_decisions_look_at_one_domain_alone():
    figures = section_figures(ANOMALY, TARGET, SCORE, DECISION)
    assert figures.source == pytest.approx((1 / 2, 1.0, 2 / 3))  # called: 4 (wrong) and 3 (right)
    assert figures.target == pytest.approx((0.0, 0.0, 0.0))  # called: 6 (wrong); 5 is missed
    assert section_figures(ANOMALY, TARGET, SCORE).source is None


def test_partial_auc_by_hand():
    """20 normals 0..19; one anomaly above all, one below two normals: at 10 % false positives TPR is 1/2, then 1."""
    anomaly = np.array([False] * 20 + [True, True])
    score = np.array([*range(20), 30.0, 17.5])
    raw = 0.1 * 0.5  # TPR stays 1/2 until exactly FPR 0.1
    smallest, largest = 0.1**2 / 2, 0.1
    assert partial_auc(anomaly, score) == pytest.approx(0.5 * (1 + (raw - smallest) / (largest - smallest)))


@pytest.mark.parametrize(("sign", "auc", "pauc"), [(1, 1.0, 1.0), (0, 0.5, 0.5), (-1, 0.0, 0.5 * (1 - 0.005 / 0.095))])
def test_perfect_constant_and_inverted_scores(sign, auc, pauc):
    figures = section_figures(ANOMALY, TARGET, sign * ANOMALY.astype(float))
    assert [figures.auc_source, figures.auc_target, figures.pauc] == pytest.approx([auc, auc, pauc])


def test_figures_without_their_clips_are_absent():
    only_source = section_figures(ANOMALY, np.zeros(6, dtype=bool), SCORE, DECISION)
    assert only_source.auc_target is None
    assert only_source.target is None
    assert only_source.absent == ["AUC target"]
    assert only_source.auc_source is not None
    assert only_source.pauc is not None
    assert only_source.hmean == pytest.approx(2 / (1 / only_source.auc_source + 1 / only_source.pauc))
    no_anomaly = section_figures(np.zeros(6, dtype=bool), TARGET, SCORE, DECISION)
    assert no_anomaly == SectionFigures(None, None, None, None, None, None)
    assert no_anomaly.absent == ["AUC source", "AUC target", "pAUC"]
    assert no_anomaly.hmean is None
    assert official_score([only_source, no_anomaly]) == pytest.approx(only_source.hmean)
    assert official_score([no_anomaly]) is None


def test_anomalies_of_one_domain_serve_the_other_domains_auc():
    """Normals of both domains but anomalies in the source only: both AUCs exist, the target's recall does not."""
    figures = section_figures(ANOMALY & ~TARGET, TARGET, SCORE, DECISION)
    assert figures.auc_target == pytest.approx(1 / 3)  # 3 against 2, 6 and 5, which is normal now
    assert figures.target is None


def test_means_skip_what_is_absent_and_floor_zero():
    assert harmonic_mean([0.5, None, 0.25]) == pytest.approx(1 / 3)
    assert arithmetic_mean([0.5, None, 0.25]) == 0.375
    assert harmonic_mean([0.0, 1.0]) == pytest.approx(2 * FLOOR)
    assert harmonic_mean([]) is None
    assert arithmetic_mean([None]) is None


def test_the_official_score_weighs_each_figure_once_not_each_machine():
    full = SectionFigures(None, 0.8, 0.4, 0.5, None, None)
    part = SectionFigures(None, 1.0, None, None, None, None)
    assert official_score([full, part]) == pytest.approx(4 / (1 / 0.8 + 1 / 0.4 + 1 / 0.5 + 1))


@settings(max_examples=50, deadline=None, derandomize=True)
@given(flags(12), flags(12), npst.arrays(float, 12, elements=st.integers(-3, 3).map(float)))
def test_domain_auc_counts_pairs(anomaly, target, score):
    normal = score[~anomaly & target]
    got = domain_auc(anomaly, score, target)
    if not anomaly.any() or not len(normal):
        assert got is None
    else:
        assert got == pytest.approx(pairs_auc(normal, score[anomaly]))


def counted_partial_auc(normal, anomalous, limit=0.1) -> float:
    """pAUC by walking down the scores: trapezoids between false positive rates 0 and `limit`, then standardised."""
    area, fpr, tpr = 0.0, 0.0, 0.0
    for threshold in sorted({*normal, *anomalous}, reverse=True):
        next_fpr = sum(n >= threshold for n in normal) / len(normal)
        next_tpr = sum(a >= threshold for a in anomalous) / len(anomalous)
        if next_fpr > limit:  # the last trapezoid is cut at the limit, where the curve is a straight line
            at_limit = tpr + (next_tpr - tpr) * (limit - fpr) / (next_fpr - fpr)
            area += (limit - fpr) * (tpr + at_limit) / 2
            break
        area += (next_fpr - fpr) * (tpr + next_tpr) / 2
        fpr, tpr = next_fpr, next_tpr
    chance = limit**2 / 2
    return 0.5 * (1 + (area - chance) / (limit - chance))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(flags(40), npst.arrays(float, 40, elements=st.integers(-6, 6).map(float)))
def test_partial_auc_counts_trapezoids(anomaly, score):
    """Scores of 13 values only, so most are tied; more than 20 normals give several points below the limit."""
    got = partial_auc(anomaly, score)
    if not anomaly.any() or anomaly.all():
        assert got is None
    else:
        assert got == pytest.approx(counted_partial_auc(score[~anomaly], score[anomaly]))


@settings(max_examples=50, deadline=None, derandomize=True)
@given(flags(10), flags(10), npst.arrays(float, 10, elements=st.floats(-5, 5, width=16)))
def test_figures_depend_on_order_only_and_lie_in_range(anomaly, target, score):
    figures = section_figures(anomaly, target, score, score > 0)
    assert section_figures(anomaly, target, 2 * score + 1, score > 0) == figures
    shuffled = np.random.default_rng(0).permutation(10)
    again = section_figures(anomaly[shuffled], target[shuffled], score[shuffled], score[shuffled] > 0)
    for one, other in zip(figures[:4], again[:4], strict=True):
        assert (one is None and other is None) or one == pytest.approx(other)
        assert one is None or 0 <= one <= 1


@settings(max_examples=50, deadline=None, derandomize=True)
@given(flags(8), flags(8))
def test_decision_figures_agree_with_scikit_learn(anomaly, decision):
    expected = [f(anomaly, decision, zero_division=0) for f in (precision_score, recall_score, f1_score)]
    assert decision_figures(anomaly, decision) == pytest.approx(expected)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=9))
def test_the_harmonic_mean_lies_between_the_smallest_and_the_arithmetic_mean(values):
    harmonic, arithmetic, equal = harmonic_mean(values), arithmetic_mean(values), harmonic_mean([values[0]] * 5)
    assert harmonic is not None
    assert arithmetic is not None
    assert equal is not None
    assert min(values) - 1e-12 <= harmonic <= arithmetic + 1e-12
    assert math.isclose(equal, values[0])
