"""Histograms are counted by hand; the ROC curve and its shaded part have the areas that the official figures have."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike

from models.metrics import partial_auc, section_figures
from orchestrator.report.score_charts import BINS, count_scores, first_part, histogram, partial_area, roc, roc_curves


def clips(score: ArrayLike, anomaly: list[bool | None], target: list[bool | None]) -> pa.Table:
    columns = {"is_anomaly": pa.array(anomaly, pa.bool_()), "is_target": pa.array(target, pa.bool_())}
    return pa.table({"score": np.asarray(score, np.float64), **columns})


def test_clips_are_counted_by_domain_and_truth() -> None:
    score = [0.0, 1.0, 1.1, 3.9, 4.0, 2.5]
    test = clips(score, [False, False, True, True, None, False], [False, False, False, True, True, None])
    found = count_scores(test, None, bins=4)
    assert found.edges.tolist() == [0, 1, 2, 3, 4]
    told = {domain: {kind: n.tolist() for kind, n in kinds.items()} for domain, kinds in found.counts.items()}
    assert told == {
        "source": {"normal": [1, 1, 0, 0], "anomaly": [0, 1, 0, 0]},
        "target": {"anomaly": [0, 0, 0, 1], "unknown": [0, 0, 0, 1]},
        "domain unknown": {"normal": [0, 0, 1, 0]},
    }
    assert found.told == (
        "2 source normal, 1 source anomaly, 1 target anomaly, 1 target unknown, 1 domain unknown normal"
    )


@pytest.mark.parametrize(
    ("threshold", "low", "high"),
    [(None, 1, 3), (2.0, 1, 3), (4.0, 1, 4), (0.5, 0.5, 3), (99.0, 1, 3)],  # a far one would squeeze all bars
)
def test_the_threshold_widens_the_range_unless_it_is_far(threshold: float | None, low: float, high: float) -> None:
    found = count_scores(clips([1, 2, 3], [False] * 3, [False] * 3), threshold)
    assert (found.edges[0], found.edges[-1], len(found.edges)) == (low, high, BINS + 1)


@pytest.mark.parametrize("value", [0.0, 5.0, 1e-12, -3.0])
def test_equal_scores_are_drawn_too(value: float) -> None:
    test = clips([value] * 3, [False, True, True], [False] * 3)
    assert sum(int(n.sum()) for n in count_scores(test, value).counts["source"].values()) == 3
    assert "nan" not in histogram(test, value, "fan")


def test_a_curve_by_hand() -> None:
    # descending: anomaly, normal (source), anomaly, normal (target)
    test = clips([4, 3, 2, 1], [True, False, True, False], [False, False, True, True])
    curves = {name: (c.false_P.tolist(), c.true_P.tolist()) for name, c in roc_curves(test).items()}
    assert curves["both"] == ([0, 0, 0.5, 0.5, 1], [0, 0.5, 0.5, 1, 1])
    assert curves["source"] == ([0, 0, 1, 1], [0, 0.5, 0.5, 1])
    assert set(zip(*curves["target"], strict=True)) >= {(0, 0), (0, 1), (1, 1)}  # perhaps corners on the lines between
    part = first_part(roc_curves(test)["both"])
    assert (part.false_P[-1], part.true_P[-1]) == (0.1, 0.5)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 60), st.booleans())
def test_areas_are_the_official_ones(seed: int, count: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    anomaly, target = rng.random(count) < 0.5, rng.random(count) < 0.5
    anomaly[:2] = (True, False)
    score = rng.integers(0, 5, count).astype(float) if ties else rng.normal(size=count)
    curves = roc_curves(clips(score, anomaly.tolist(), target.tolist()))
    figures = section_figures(anomaly, target, score)
    for name, expected in (("both", figures.auc_all), ("source", figures.auc_source), ("target", figures.auc_target)):
        area = np.trapezoid(curves[name].true_P, curves[name].false_P) if name in curves else None
        assert area == pytest.approx(expected) if expected is not None else area is None
    assert partial_area(curves["both"]) == pytest.approx(partial_auc(anomaly, score))


def test_without_truth_or_one_kind_there_is_no_curve() -> None:
    assert roc(clips([1, 2], [None, None], [None, None]), "fan", "") is None
    assert roc(clips([1, 2], [True, True], [False, True]), "fan", "") is None
    assert roc_curves(clips([1, 2, 3], [False, True, None], [False, False, None])).keys() == {"both", "source"}


def test_names_are_escaped_in_drawings() -> None:
    test = clips([1, 2], [True, False], [False, False])
    for drawing in (histogram(test, 1.5, '<b>&"'), roc(test, '<b>&"', "")):
        assert drawing is not None
        assert "<b>" not in drawing
        assert "&lt;b&gt;&amp;&#34;" in drawing
