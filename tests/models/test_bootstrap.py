"""The paired bootstrap: its figures against repeated clips, its limits, and the strata that it keeps."""

import time
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from models.bootstrap import draw_counts, paired_bootstrap, weighted_figures
from models.metrics import official_score, section_figures


def clips(places: int, each: int = 10):
    """Truth of `places` machines with `each` test clips of every domain and label: anomaly, target, place (N,)."""
    kinds = np.array(list(product(range(places), [0, 1], [0, 1], range(each))))
    return kinds[:, 2].astype(bool), kinds[:, 1].astype(bool), kinds[:, 0]


def official(score, anomaly, target, place) -> float:
    places = [place == p for p in np.unique(place)]
    found = official_score([section_figures(anomaly[own], target[own], score[own]) for own in places])
    assert found is not None
    return found


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    npst.arrays(float, 30, elements=st.integers(-5, 5).map(float)),
    npst.arrays(bool, 30),
    npst.arrays(bool, 30),
    npst.arrays(np.int64, (3, 30), elements=st.integers(0, 3)),
)
def test_weighted_figures_equal_those_of_repeated_clips(score, anomaly, target, count):
    """Scores of 11 values only, so most are tied."""
    anomaly[:4], target[:4], count[:, :4] = [0, 0, 1, 1], [0, 1, 0, 1], 1  # every kind of clip occurs
    got = weighted_figures(score, anomaly, target, count)
    for r in range(3):
        repeated = [np.repeat(column, count[r]) for column in (anomaly, target, score)]
        assert [figure[r] for figure in got] == pytest.approx(section_figures(*repeated).official, abs=1e-12)


def test_weighted_figures_without_a_domain_are_as_many_as_exist():
    anomaly, target, score = np.array([0, 0, 1], bool), np.array([0, 0, 1], bool), np.array([1.0, 3.0, 2.0])
    got = weighted_figures(score, anomaly, target, np.array([[1, 1, 1], [3, 1, 1]]))
    assert len(got) == 2  # no normal target clip
    assert got[0] == pytest.approx([1 / 2, 3 / 4])


def test_draws_keep_the_size_of_every_stratum():
    anomaly, target, _ = clips(1, each=5)
    target[-3:] = False  # strata of unequal size
    count = draw_counts(anomaly, target, 2000, np.random.default_rng(0))
    assert count.shape == (2000, 20)
    for a, t in product([False, True], [False, True]):
        own = (anomaly == a) & (target == t)
        assert (count[:, own].sum(axis=1) == own.sum()).all()
    assert count.mean(axis=0) == pytest.approx(1, abs=0.1)
    assert count[:, 0].var() == pytest.approx(1 - 1 / 5, rel=0.1)  # binomial of 5 draws, each 1/5


@pytest.mark.parametrize("rescaled", [lambda s: s, lambda s: 3 * s + 1, np.exp])
def test_systems_of_equal_ranking_differ_by_nothing(rescaled):
    anomaly, target, place = clips(3)
    score = np.random.default_rng(0).normal(size=len(place)).round(1)
    assert paired_bootstrap(score, rescaled(score), anomaly, target, place, rounds=50, seed=1) == (0, 0, 0, 1, 50)


def test_a_perfect_system_beats_a_random_one():
    anomaly, target, place = clips(2)
    score = np.random.default_rng(0).normal(size=len(place))
    found = paired_bootstrap(score, anomaly.astype(float), anomaly, target, place, rounds=199, seed=0)
    assert found.difference == pytest.approx(1 - official(score, anomaly, target, place))
    assert 0 < found.low < found.difference < found.high < 1
    assert found.p_value == pytest.approx(2 / 200)  # no round against it: as small as 199 rounds allow
    back = paired_bootstrap(anomaly.astype(float), score, anomaly, target, place, rounds=199, seed=0)
    assert back == pytest.approx((-found.difference, -found.high, -found.low, found.p_value, 199))


def test_perfect_against_inverted_is_the_same_in_every_round():
    """Inverted: both AUCs 0, floored, so the score is as good as 0 whichever clips are drawn."""
    anomaly, target, place = clips(2)
    found = paired_bootstrap(-anomaly.astype(float), anomaly.astype(float), anomaly, target, place, rounds=20, seed=0)
    assert found == pytest.approx((1, 1, 1, 2 / 21, 20))


def test_the_interval_equals_that_of_rounds_drawn_one_by_one():
    anomaly, target, place = clips(2, each=6)
    rng = np.random.default_rng(3)
    a = (rng.normal(size=len(place)) + 0.5 * anomaly).round(1)
    b = (a + 0.5 * rng.normal(size=len(place)) + 0.3 * anomaly).round(1)
    found = paired_bootstrap(a, b, anomaly, target, place, rounds=40, seed=9)
    replay, chosen = np.random.default_rng(9), []
    for p in (0, 1):
        count = draw_counts(anomaly[place == p], target[place == p], 40, replay)
        chosen.append([np.repeat(np.flatnonzero(place == p), row) for row in count])
    drawn = []
    for rows in (np.concatenate(pair) for pair in zip(*chosen, strict=True)):
        truth = anomaly[rows], target[rows], place[rows]
        drawn.append(official(b[rows], *truth) - official(a[rows], *truth))
    sides = min(sum(d <= 0 for d in drawn), sum(d >= 0 for d in drawn))
    expected = (
        official(b, anomaly, target, place) - official(a, anomaly, target, place),
        *np.percentile(drawn, [2.5, 97.5]),
    )
    assert found[:3] == pytest.approx(expected, abs=1e-12)
    assert found.p_value == pytest.approx(min(1, 2 * (1 + sides) / 41))


def test_p_values_of_systems_that_are_equally_good_are_not_small():
    """Two noisy copies of one truth: p below 0.05 in about one comparison of twenty, here in at most 6 of 40."""
    anomaly, target, place = clips(2, each=25)
    small = 0
    for seed in range(40):
        a, b = np.random.default_rng(seed).normal(size=(2, len(place))) + anomaly
        small += paired_bootstrap(a, b, anomaly, target, place, rounds=100, seed=seed).p_value < 0.05
    assert small <= 6


def test_the_seed_decides_and_names_of_places_do_not():
    anomaly, target, place = clips(2)
    a, b = np.random.default_rng(0).normal(size=(2, len(place)))
    first = paired_bootstrap(a, b, anomaly, target, place, rounds=1500, seed=5)
    names = np.array(["fan_00", "valve_00"])[place]
    assert paired_bootstrap(a, b, anomaly, target, names, rounds=1500, seed=5) == first
    other = paired_bootstrap(a, b, anomaly, target, place, rounds=1500, seed=6)
    assert other.difference == first.difference
    assert other.low != first.low


def test_a_place_without_anomalies_changes_nothing():
    anomaly, target, place = clips(2)
    a, b = np.random.default_rng(0).normal(size=(2, len(place)))
    extra = [(anomaly, False), (target, True), (place, 7)]
    more = [np.append(column, np.full(8, value)) for column, value in extra]
    longer = [np.append(score, np.arange(8.0)) for score in (a, b)]
    assert paired_bootstrap(*longer, *more, rounds=30, seed=0) == paired_bootstrap(
        a, b, anomaly, target, place, rounds=30, seed=0
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"score_b_N": np.zeros(3)}, "equally many"),
        ({"score_a_N": np.full(40, np.nan)}, "finite"),
        ({"anomaly_N": np.zeros(40, bool)}, "both normal and anomalous"),
        ({"rounds": 0}, "at least one round"),
    ],
)
def test_what_cannot_be_compared_is_refused(change, said):
    anomaly, target, place = clips(1)
    given_ = {"score_a_N": np.zeros(40), "score_b_N": np.ones(40), "anomaly_N": anomaly, "target_N": target}
    with pytest.raises(ValueError, match=said):
        paired_bootstrap(**{**given_, "place_N": place, "rounds": 5, "seed": 0, **change})


def test_a_thousand_rounds_of_seven_machines_take_seconds():
    anomaly, target, place = clips(7, each=50)
    a, b = np.random.default_rng(0).normal(size=(2, len(place))) + anomaly
    start = time.process_time()
    found = paired_bootstrap(a, b, anomaly, target, place, seed=0)
    assert found.rounds == 1000
    assert time.process_time() - start < 5
