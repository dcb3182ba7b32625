"""How alike a row's members are, and what each adds: the row's official score with it less that without it.

Shapes: V members (an extractor, or the autoencoders of all machines together), N test clips.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.stats import rankdata

from models.metrics import official_score, section_figures
from orchestrator.data.clips import by_place
from orchestrator.ensemble import score_matrix
from orchestrator.errors import DataError
from orchestrator.members import Member
from orchestrator.report.contents import Contents, SystemRow, clips_of, flags

Floats = NDArray[np.float64]


class Voice(NamedTuple):
    """A member's say in a row: its mean score over checkpoints, and how many of them the row averages."""

    group: str
    seed: int
    checkpoints: int
    score_N: Floats

    @property
    def title(self) -> str:
        return f"{self.group}, seed {self.seed}"


class Share(NamedTuple):
    """What one member, or one group, is worth in its row; None where no truth is known."""

    title: str
    alone: float | None  # official score of it alone
    without: float | None  # of the row without it; None where nothing would be left
    alike: float  # mean rank correlation with the others

    def adds(self, whole: float | None) -> float | None:
        return None if whole is None or self.without is None else whole - self.without


def voices_of(contents: Contents, row: SystemRow) -> list[Voice]:
    """Each member's scores of the row's test clips, in the order of the study's groups and seeds.

    A member that two groups share speaks once, as in the row. DataError where the members are not known, or their mean
    is not the row's score: they were scored again after the row was written.
    """
    clips, output = clips_of(contents, row), contents.study.score_of(row.name)
    voices: dict[str, Voice] = {}
    for group in contents.study.systems[row.name].groups:
        if contents.plan is None or group not in contents.plan.groups:
            raise DataError(f"the members of group {group} are not known")
        series: dict[str, list[Member]] = {}
        for member in contents.plan.groups[group]:
            series.setdefault(member.series, []).append(member)
        for key, members in series.items():
            score_KN = score_matrix(_of(contents.scores, members), members, clips, output)
            voices.setdefault(key, Voice(group, members[0].seed, len(score_KN), score_KN.mean(axis=0)))
    found = list(voices.values())
    if not np.allclose(mean_of(found), row.test["score"].to_numpy(), rtol=1e-6, atol=0):
        raise DataError("the members' scores are not those that the row was made of; run `asd run` again")
    return found


def _of(scores: pa.Table, members: Sequence[Member]) -> pa.Table:
    return scores.filter(pc.is_in(scores["member"], pa.array([member.hash for member in members])))


def score_matrix_of(voices: Sequence[Voice]) -> Floats:
    """All members' scores: (V, N)."""
    return np.stack([voice.score_N for voice in voices])


def mean_of(voices: Sequence[Voice]) -> Floats:
    """The row's score: every checkpoint counts the same."""
    weights = [voice.checkpoints for voice in voices]
    return np.average([voice.score_N for voice in voices], axis=0, weights=weights)


def official_of(score_N: Floats, test: pa.Table) -> float | None:
    """The official score of other scores of the same test clips, None where no truth is known."""
    known = pc.and_(test["is_anomaly"].is_valid(), test["is_target"].is_valid()).to_numpy(zero_copy_only=False)
    if not known.any():
        return None
    anomaly_N, target_N = flags(test, "is_anomaly")[known], flags(test, "is_target")[known]
    places = by_place(test.filter(pa.array(known))).values()
    return official_score([section_figures(anomaly_N[at], target_N[at], score_N[known][at]) for at in places])


def correlation(score_VN: Floats, test: pa.Table) -> Floats:
    """Spearman's rank correlation (V, V) within each machine and section, averaged over them.

    Across machines all members would agree merely on which machine scores higher. A member that gives all clips of a
    machine one score says nothing there and is left out of that machine's part; NaN where nothing is left.
    """
    total, parts = np.zeros((len(score_VN),) * 2), np.zeros((len(score_VN),) * 2)
    for at in by_place(test).values():
        rank_VA = rankdata(score_VN[:, at], axis=1)
        centred_VA = rank_VA - rank_VA.mean(axis=1, keepdims=True)
        length_V = np.sqrt((centred_VA**2).sum(axis=1))
        size_VV = np.outer(length_V, length_V)
        known_VV = size_VV > 0
        total += np.where(known_VV, centred_VA @ centred_VA.T / np.where(known_VV, size_VV, 1), 0)
        parts += known_VV
    return np.divide(total, parts, out=np.full_like(total, np.nan), where=parts > 0)


def shares(voices: Sequence[Voice], test: pa.Table, keys: Sequence[str]) -> list[Share]:
    """What the members with each key (a title each, or a group each) add together."""
    found = []
    alike_VV = correlation(score_matrix_of(voices), test)
    for key in dict.fromkeys(keys):
        inside = np.array([k == key for k in keys])
        own = [voice for voice, chosen in zip(voices, inside, strict=True) if chosen]
        others = [voice for voice, chosen in zip(voices, inside, strict=True) if not chosen]
        without = official_of(mean_of(others), test) if others else None
        pairs = alike_VV[np.ix_(inside, ~inside)]
        alike = float(np.nanmean(pairs)) if np.isfinite(pairs).any() else float("nan")
        found.append(Share(key, official_of(mean_of(own), test), without, alike))
    return found
