"""A row's scores of one machine: histograms by domain and truth, and ROC curves with the region that pAUC looks at.

Shapes: N test clips, P corners of a ROC curve.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from markupsafe import Markup
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from models.metrics import MAX_FALSE_POSITIVE_RATE
from orchestrator.report.contents import flags
from orchestrator.report.svg import Scale, line, number, picture, polyline, rectangle, short, text, ticks

WIDTH, LEFT, RIGHT = 300.0, 8.0, 292.0
BINS = 24
TOP, HALF, GAP = 30.0, 36.0, 22.0  # of the histograms: above the first bars, bars on a side of a baseline, between
ROC_SIZE, ROC_FROM, ROC_TO = 232.0, 34.0, 222.0
KINDS = {False: "normal", True: "anomaly", None: "unknown"}
DOMAINS = {False: "source", True: "target", None: "domain unknown"}

Floats = NDArray[np.float64]


class Histogram(NamedTuple):
    """How many clips fall between neighbouring edges, by domain and by truth; what is empty is absent."""

    edges: Floats
    counts: dict[str, dict[str, NDArray[np.int64]]]

    @property
    def told(self) -> str:
        return ", ".join(
            f"{n.sum()} {domain} {kind}" for domain, kinds in self.counts.items() for kind, n in kinds.items()
        )


class Curve(NamedTuple):
    """The corners of a ROC curve: false and true positive rates (P)."""

    false_P: Floats
    true_P: Floats


def count_scores(test: pa.Table, threshold: float | None, bins: int = BINS) -> Histogram:
    """Count one machine's test scores in equal bins that span all scores and, where it is near, the threshold."""
    score_N = test["score"].to_numpy()
    edges = np.linspace(*_range(score_N, threshold), bins + 1)
    target, anomaly = test["is_target"].to_pylist(), test["is_anomaly"].to_pylist()
    found: dict[str, dict[str, NDArray[np.int64]]] = {}
    for is_target, domain in DOMAINS.items():
        for is_anomaly, kind in KINDS.items():
            rows = [i for i, both in enumerate(zip(target, anomaly, strict=True)) if both == (is_target, is_anomaly)]
            if rows:
                found.setdefault(domain, {})[kind] = np.histogram(score_N[rows], edges)[0]
    return Histogram(edges, found)


def _range(score_N: Floats, threshold: float | None) -> tuple[float, float]:
    """From the least to the greatest score, and to the threshold unless it would take more than half of the width."""
    low, high = float(score_N.min()), float(score_N.max())
    span = (high - low) or abs(high) or 1.0
    if threshold is not None and low - span < threshold < high + span:
        low, high = min(low, threshold), max(high, threshold)
    return (low, high) if high > low else (low - span / 2, high + span / 2)


def histogram(test: pa.Table, threshold: float | None, name: str) -> Markup:
    """One machine's test scores: a panel a domain, normal (or unknown) clips above its line and anomalies below."""
    found = count_scores(test, threshold)
    edges, parts = found.edges, list[str]()
    x = Scale(edges[0], edges[-1], LEFT, RIGHT)
    most = max(counts.max() for kinds in found.counts.values() for counts in kinds.values())
    bottom = TOP + len(found.counts) * (2 * HALF + GAP) - GAP
    for index, (domain, kinds) in enumerate(found.counts.items()):
        base = TOP + HALF + index * (2 * HALF + GAP)
        for kind, counts in kinds.items():
            down = 1 if kind == "anomaly" else -1
            parts.append(_bars(counts * down * HALF / most, base, x, edges, kind))
        parts += [line(LEFT, base, RIGHT, base, "axis"), text(LEFT, base - HALF - 4, domain, "small strong")]
    if threshold is not None and edges[0] <= threshold <= edges[-1]:
        parts.append(line(x(threshold), 14, x(threshold), bottom + 2, "limit"))
        side = "end" if x(threshold) > WIDTH * 0.7 else "start" if x(threshold) < WIDTH * 0.3 else "middle"
        parts.append(text(x(threshold), 10, f"threshold {short(threshold)}", "small", side))
    parts += [
        text(x(at), bottom + 15, short(at), "small faint", "middle") for at in _inner(ticks(edges[0], edges[-1]), x)
    ]
    label = f"{name}: histogram of {len(test)} test scores: {found.told}."
    return picture(WIDTH, bottom + 20, parts, label, "histogram")


def _bars(height: Floats, base: float, x: Scale, edges: Floats, kind: str) -> str:
    """All bars of one kind as one path; a negative height goes up."""
    width = number(x(edges[1]) - x(edges[0]) - 0.8)
    told = [
        f"M{number(x(edge) + 0.4)} {number(base)}v{number(h)}h{width}v{number(-h)}z"
        for edge, h in zip(edges, height, strict=False)
        if h
    ]
    return f'<path class="bar {kind}" d="{"".join(told)}"/>'


def _inner(values: Sequence[float], x: Scale) -> list[float]:
    """Ticks whose figures are not cut at the edges."""
    return [value for value in values if LEFT + 8 <= x(value) <= RIGHT - 12]


def roc_curves(test: pa.Table) -> dict[str, Curve]:
    """The ROC of all clips, and of each domain's normal clips, against all anomalies: as the official AUCs count.

    Empty where no clip, or not one of each kind, has a known truth.
    """
    known = (test["is_anomaly"].is_valid()).to_numpy(zero_copy_only=False)
    placed = test["is_target"].is_valid().to_numpy(zero_copy_only=False)
    score_N, anomaly_N, target_N = test["score"].to_numpy(), flags(test, "is_anomaly"), flags(test, "is_target")
    found = {}
    for name, chosen in (("both", known), ("source", known & placed & ~target_N), ("target", known & target_N)):
        rows = known & (chosen | anomaly_N)
        if (rows & anomaly_N).any() and (rows & ~anomaly_N).any():
            false, true, _ = roc_curve(anomaly_N[rows], score_N[rows])
            found[name] = Curve(false, true)
    return found


def first_part(curve: Curve, max_fpr: float = MAX_FALSE_POSITIVE_RATE) -> Curve:
    """The curve up to a false positive rate, cut there between two corners."""
    inside = curve.false_P <= max_fpr
    end = np.interp(max_fpr, curve.false_P, curve.true_P)
    return Curve(np.append(curve.false_P[inside], max_fpr), np.append(curve.true_P[inside], end))


def partial_area(curve: Curve, max_fpr: float = MAX_FALSE_POSITIVE_RATE) -> float:
    """The shaded area as pAUC tells it: standardised so that chance is 0.5 and the best is 1."""
    part = first_part(curve, max_fpr)
    chance = max_fpr**2 / 2
    return 0.5 * (1 + (float(np.trapezoid(part.true_P, part.false_P)) - chance) / (max_fpr - chance))


def roc(test: pa.Table, name: str, figures: str) -> Markup | None:
    """The ROC curves with the region of pAUC shaded; None without normal or without anomalous clips."""
    curves = roc_curves(test)
    if "both" not in curves:
        return None
    x, y = Scale(0, 1, ROC_FROM, ROC_TO), Scale(0, 1, ROC_TO - 12, 8)
    parts = [rectangle(x(0), y(1), x(MAX_FALSE_POSITIVE_RATE) - x(0), y(0) - y(1), "band")]
    part = first_part(curves["both"])
    corners = [(0.0, 0.0), *zip(part.false_P, part.true_P, strict=True), (MAX_FALSE_POSITIVE_RATE, 0.0)]
    parts.append(polyline([(x(a), y(b)) for a, b in corners], "area"))
    parts += [line(x(0), y(at), x(1), y(at), "grid") for at in (0.5, 1)]
    parts += [line(x(0), y(0), x(1), y(1), "chance")]
    for kind in ("source", "target", "both"):
        if kind in curves:
            points = zip(*curves[kind], strict=True)
            parts.append(polyline([(x(a), y(b)) for a, b in points], f"curve {kind}"))
    return picture(ROC_SIZE, ROC_SIZE, [*parts, *_roc_axes(x, y)], f"{name}: ROC curves. {figures}", "roc")


def _roc_axes(x: Scale, y: Scale) -> list[str]:
    parts = [line(x(0), y(0), x(1), y(0), "axis"), line(x(0), y(0), x(0), y(1), "axis")]
    parts += [text(x(at), y(0) + 13, short(at), "small faint", "middle") for at in (0, 0.1, 0.5, 1)]
    parts += [text(x(0) - 5, y(at) + 4, short(at), "small faint", "end") for at in (0, 0.5, 1)]
    parts.append(text(x(0.98), y(0.03), "false alarms →", "small faint", "end"))
    turned = f'transform="translate({number(x(0) - 25)} {number(y(0.5))}) rotate(-90)" text-anchor="middle"'
    return [*parts, f'<text class="small faint" {turned}>anomalies found →</text>']
