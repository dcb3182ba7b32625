"""The decision threshold: right where a gamma fits, and never far from the scores where it does not."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy import stats

from models.threshold import gamma_threshold


def gamma_scores(shape=4.0, scale=0.05, location=0.1, size=2000):
    return stats.gamma.rvs(shape, loc=location, scale=scale, size=size, random_state=np.random.default_rng(7))


def test_scores_of_a_gamma_give_its_percentile():
    threshold = gamma_threshold(gamma_scores(), 90)
    assert threshold.method == "gamma"
    assert threshold.value == pytest.approx(stats.gamma.ppf(0.9, 4.0, loc=0.1, scale=0.05), rel=0.02)


def test_it_is_the_challenge_baselines_recipe():
    scores = gamma_scores(size=100)
    shape, location, scale = stats.gamma.fit(scores)
    expected = stats.gamma.ppf(0.9, a=shape, loc=location, scale=scale)
    assert gamma_threshold(scores).value == pytest.approx(expected, rel=1e-12)


def test_an_exponential_by_hand():
    """Shape 1 is the exponential distribution, whose 90th percentile is ln 10 scales above its location."""
    scores = stats.expon.ppf((np.arange(2000) + 0.5) / 2000)
    assert gamma_threshold(scores).value == pytest.approx(np.log(10), rel=0.05)


def test_negative_scores_are_fitted_too():
    scores = gamma_scores()
    shifted = gamma_threshold(scores - 5)
    assert shifted.method == "gamma"
    assert shifted.value == pytest.approx(gamma_threshold(scores).value - 5, abs=0.01)


@pytest.mark.parametrize("scores", [[0.3], [0.1, 0.2], [0.0] * 50, [0.25] * 50, [-7.0] * 5, [0.1, 0.1 + 1e-14, 0.1]])
def test_too_few_or_equal_scores_say_that_the_plain_percentile_was_taken(scores):
    threshold = gamma_threshold(np.array(scores), 90)
    assert threshold == (pytest.approx(np.percentile(scores, 90)), "percentile")


def test_tiny_scores_are_not_taken_for_equal():
    scores = gamma_scores()
    tiny = gamma_threshold(1e-14 * scores)
    assert tiny.method == "gamma"
    assert tiny.value == pytest.approx(1e-14 * gamma_threshold(scores).value, rel=0.01)


@pytest.mark.parametrize("fit", [(np.nan, 0.0, 1.0), (1.0, 0.0, 1e9), None])
def test_a_fit_that_fails_or_runs_away_is_not_used(monkeypatch, fit):
    def broken(scores):
        if fit is None:
            raise stats.FitError("no convergence")
        return fit

    monkeypatch.setattr("models.threshold.stats.gamma.fit", broken)
    scores = gamma_scores()
    assert gamma_threshold(scores) == (pytest.approx(np.percentile(scores, 90)), "percentile")


@pytest.mark.parametrize("scores", [[], [0.1, np.nan, 0.2], [np.inf, 1.0, 2.0]])
def test_no_scores_or_broken_ones_are_refused(scores):
    with pytest.raises(ValueError, match="at least one score, all finite"):
        gamma_threshold(np.array(scores))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(npst.arrays(float, st.integers(1, 30), elements=st.floats(-100, 100, width=32)))
def test_any_scores_give_a_finite_threshold_near_them(scores):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        threshold = gamma_threshold(scores)
    reach = 3 * np.ptp(scores) + 1e-6
    assert scores.min() - reach <= threshold.value <= scores.max() + reach
