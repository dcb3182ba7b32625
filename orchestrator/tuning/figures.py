"""How good a trial is: the official score, and a figure for users without a single recorded anomaly.

Shapes: N clips, A of them for training, E = M * D size of z_cat, K members x checkpoints.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.backend import Backend, anomaly_scores, fit_backend
from orchestrator.config import BackendConfig
from orchestrator.data.clips import by_place
from orchestrator.evaluation import evaluate_scores
from orchestrator.tuning.pseudo_anomalies import folds, train_places

FOLDS = 4  # a held-out clip meets references from the other three quarters

Scores = NDArray[np.float64]
Embeddings = NDArray[np.floating]


class Figures(NamedTuple):
    """All in [0, 1]; None where the data cannot give it."""

    official: float | None  # of the mean over all members' scores: what `asd run` calls official
    seeds_mean: float | None  # of the seeds' own official scores
    seeds_std: float | None
    label_free: float | None

    def known(self) -> dict[str, float]:
        return {name: value for name, value in self._asdict().items() if value is not None}


def summarise(clips: pa.Table, scores: Mapping[int, Sequence[Scores]], label_free: float | None) -> Figures:
    """The figures of a trial from each seed's scores (N,), one a checkpoint (and machine, NaN elsewhere)."""
    alone = {seed: _stacked(rows) for seed, rows in scores.items()}
    seeds = [official(clips, score_N) for score_N in alone.values()]
    known = [figure for figure in seeds if figure is not None]
    return Figures(
        official=official(clips, np.mean(list(alone.values()), axis=0)),
        seeds_mean=float(np.mean(known)) if known else None,
        seeds_std=float(np.std(known, ddof=1)) if len(known) > 1 else None,
        label_free=label_free,
    )


def _stacked(rows: Sequence[Scores]) -> Scores:
    """The mean of a seed's checkpoints: (N,); networks of one machine score each its own clips."""
    return np.nanmean(np.stack(rows), axis=0)


def official(clips: pa.Table, score_N: Scores) -> float | None:
    """The official score over the development machines' labelled test clips; None where there are none."""
    rows = development_rows(clips)
    return _official(clips.take(rows), score_N[rows], _is(clips, "label", "anomaly")[rows]) if len(rows) else None


def development_rows(clips: pa.Table) -> NDArray[np.int64]:
    """Test clips of known truth, of machines (and sections) that have both normal and anomalous ones."""
    known = _is(clips, "split", "test") & (_is(clips, "domain", "source") | _is(clips, "domain", "target"))
    normal, anomaly = (known & _is(clips, "label", kind) for kind in ("normal", "anomaly"))
    both = [rows for rows in by_place(clips).values() if normal[rows].any() and anomaly[rows].any()]
    return np.concatenate([np.empty(0, np.int64), *(rows[(normal | anomaly)[rows]] for rows in both)])


def distances(embed_NE: Embeddings, clips: pa.Table, backend: BackendConfig, seed: int) -> Scores:
    """The anomaly score of every clip from its own machine's references, as `asd run` computes it: (N,)."""
    score_N = np.full(len(clips), np.nan)
    for place, train in train_places(clips).items():
        rows = by_place(clips)[place]
        score_N[rows] = anomaly_scores(_fit(embed_NE, clips, train, backend, seed), embed_NE[rows])
    return score_N


def held_out_distances(
    embed_AE: Embeddings, blend_AE: Embeddings, train: pa.Table, backend: BackendConfig, seed: int
) -> tuple[Scores, Scores]:
    """Scores of training clips, and of the blends made of them, by references that never saw the clip: (A,), (A,)."""
    normal_A, blend_score_A = np.full(len(train), np.nan), np.full(len(train), np.nan)
    for rows in train_places(train).values():
        fold = folds(train, rows, min(FOLDS, len(rows)))
        for each in range(fold.max() + 1 if len(rows) > 1 else 0):
            inside, outside = rows[fold != each], rows[fold == each]
            references = _fit(embed_AE, train, inside, backend, seed)
            normal_A[outside] = anomaly_scores(references, embed_AE[outside])
            blend_score_A[outside] = anomaly_scores(references, blend_AE[outside])
    return normal_A, blend_score_A


def label_free(train: pa.Table, normal_KA: Sequence[Scores], blend_KA: Sequence[Scores]) -> float | None:
    """The official formula with blends for anomalies and held-out training clips for normal ones."""
    score = np.concatenate([np.mean(normal_KA, axis=0), np.mean(blend_KA, axis=0)])
    fake = np.repeat([False, True], len(train))
    known = np.isfinite(score)
    both = pa.concat_tables([train, train])
    return _official(both.filter(pa.array(known)), score[known], fake[known])


def _official(clips: pa.Table, score: Scores, anomaly: NDArray[np.bool_]) -> float | None:
    if not len(clips):
        return None
    truth = {
        "machine": clips["machine"],
        "section": clips["section"],
        "score": score,
        "decision": np.zeros(len(score), bool),
        "is_anomaly": anomaly,
        "is_target": _is(clips, "domain", "target"),
    }
    return evaluate_scores(pa.table(truth)).official_score


def _fit(embed: Embeddings, clips: pa.Table, train: NDArray[np.int64], config: BackendConfig, seed: int) -> Backend:
    target = _is(clips, "domain", "target")[train]
    settings = config.model_dump()
    return fit_backend(embed[train[~target]], embed[train[target]], seed=seed, **settings)


def _is(clips: pa.Table, column: str, value: str) -> NDArray[np.bool_]:
    return np.asarray(clips[column].to_numpy(zero_copy_only=False) == value)
