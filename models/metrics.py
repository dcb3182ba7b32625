"""The official figures of DCASE Task 2 (spec §12), for one section of one machine and over all of them.

Shapes: N test clips.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

MAX_FALSE_POSITIVE_RATE = 0.1
FLOOR = float(np.finfo(float).eps)  # of every figure that enters a harmonic mean

Floats = NDArray[np.floating]
Flags = NDArray[np.bool_]


class Decisions(NamedTuple):
    """How good yes-or-no decisions are in one domain; all in [0, 1]."""

    precision: float
    recall: float
    f1: float


class SectionFigures(NamedTuple):
    """The figures of one machine and section. A figure is None where its test clips are missing."""

    auc_all: float | None
    auc_source: float | None
    auc_target: float | None
    pauc: float | None
    source: Decisions | None
    target: Decisions | None

    @property
    def official(self) -> list[float]:
        """What the official score averages: AUC source, AUC target, pAUC, as far as they exist."""
        return [figure for figure in (self.auc_source, self.auc_target, self.pauc) if figure is not None]

    @property
    def hmean(self) -> float | None:
        """The machine's column in the report's Table 1."""
        return harmonic_mean(self.official)

    @property
    def absent(self) -> list[str]:
        """Which of the official figures the test clips cannot give, by their names in tables."""
        named = {"AUC source": self.auc_source, "AUC target": self.auc_target, "pAUC": self.pauc}
        return [name for name, figure in named.items() if figure is None]


def auc(anomaly_N: Flags, score_N: Floats, max_fpr: float | None = None) -> float | None:
    """Area under the ROC curve, up to `max_fpr` and standardised (0.5 is chance); None if one kind is missing."""
    if not anomaly_N.any() or anomaly_N.all():
        return None
    return float(roc_auc_score(anomaly_N, score_N, max_fpr=max_fpr))


def domain_auc(anomaly_N: Flags, score_N: Floats, in_domain_N: Flags) -> float | None:
    """AUC of one domain: its normal clips against the anomalies of both domains; None if one kind is missing."""
    chosen = in_domain_N | anomaly_N
    return auc(anomaly_N[chosen], score_N[chosen])


def partial_auc(anomaly_N: Flags, score_N: Floats) -> float | None:
    """pAUC over both domains, p = 0.1, standardised so that chance is 0.5; None if one kind is missing."""
    return auc(anomaly_N, score_N, MAX_FALSE_POSITIVE_RATE)


def section_figures(
    anomaly_N: Flags, target_N: Flags, score_N: Floats, decision_N: Flags | None = None
) -> SectionFigures:
    """All figures of one section from its test clips' truth, domain, score and (if given) decision.

    Precision and recall look at one domain alone, and are None where it has no anomaly to be found.
    """

    def decisions(in_domain: Flags) -> Decisions | None:
        if decision_N is None or not (in_domain & anomaly_N).any():
            return None
        return decision_figures(anomaly_N[in_domain], decision_N[in_domain])

    return SectionFigures(
        auc_all=auc(anomaly_N, score_N),
        auc_source=domain_auc(anomaly_N, score_N, ~target_N),
        auc_target=domain_auc(anomaly_N, score_N, target_N),
        pauc=partial_auc(anomaly_N, score_N),
        source=decisions(~target_N),
        target=decisions(target_N),
    )


def decision_figures(anomaly_N: Flags, decision_N: Flags) -> Decisions:
    """Precision, recall and F1 of the anomalies; a figure whose denominator is empty is 0."""
    hits = float((anomaly_N & decision_N).sum())
    precision = hits / max(float(decision_N.sum()), FLOOR)
    recall = hits / max(float(anomaly_N.sum()), FLOOR)
    return Decisions(precision, recall, 2 * precision * recall / max(precision + recall, FLOOR))


def harmonic_mean(figures: Iterable[float | None]) -> float | None:
    """Harmonic mean of the figures that exist, each floored at machine epsilon; None where there is none."""
    known = [max(figure, FLOOR) for figure in figures if figure is not None]
    return len(known) / sum(1 / figure for figure in known) if known else None


def arithmetic_mean(figures: Iterable[float | None]) -> float | None:
    """Plain mean of the figures that exist."""
    known = [figure for figure in figures if figure is not None]
    return sum(known) / len(known) if known else None


def official_score(sections: Sequence[SectionFigures]) -> float | None:
    """Harmonic mean over AUC source, AUC target and pAUC of all machines and sections."""
    return harmonic_mean(figure for section in sections for figure in section.official)
