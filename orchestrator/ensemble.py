"""A system's score of a clip: the mean over its members' scores, and other rules reported beside (spec §9).

Shapes: K members x checkpoints, N clips.
"""

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.stats import rankdata

from orchestrator.data.clips import by_place
from orchestrator.errors import DataError

Scores = NDArray[np.float64]


def score_matrix(scores: pa.Table, members: Iterable[str], clips: pa.Table, seed: int | None = None) -> Scores:
    """The scores of some members (of one seed, if given) as (K, N), columns in the order of `clips`.

    Scores of other clips are left aside. DataError: a member, or one of its clips, has no finite score.
    """
    members = sorted(set(members))
    ours = pc.is_in(scores["member"], pa.array(members, pa.string()))
    chosen = scores.filter(pc.and_(ours, pc.is_in(scores["clip_id"], clips["clip_id"].combine_chunks())))
    if seed is not None:
        chosen = chosen.filter(pc.equal(chosen["seed"], seed))
    elif missing := sorted(set(members) - set(chosen["member"].to_pylist())):
        raise DataError(f"the scores table misses members {', '.join(missing)}; run `asd run STUDY` again")
    column = pc.index_in(chosen["clip_id"], clips["clip_id"].combine_chunks())
    keys = list(zip(chosen["member"].to_pylist(), chosen["epoch"].to_pylist(), strict=True))
    row_of = {key: row for row, key in enumerate(sorted(set(keys)))}
    matrix = np.full((len(row_of), len(clips)), np.nan)
    matrix[[row_of[key] for key in keys], column.to_numpy(zero_copy_only=False)] = chosen["score"].to_numpy()
    if not matrix.size or not np.isfinite(matrix).all():
        raise DataError("the scores table misses members or clips, or finite scores of them; run `asd run STUDY` again")
    return matrix


def mean(score_KN: Scores, clips: pa.Table) -> Scores:
    """The plain mean: the rule of the report."""
    return score_KN.mean(axis=0)


def median(score_KN: Scores, clips: pa.Table) -> Scores:
    """The median over members, which a few bad members do not move."""
    return np.median(score_KN, axis=0)


def rank_mean(score_KN: Scores, clips: pa.Table) -> Scores:
    """The mean of each member's ranks in (0, 1] among the clips of a machine and section."""
    out = np.empty(score_KN.shape[1])
    for rows in by_place(clips).values():
        out[rows] = rankdata(score_KN[:, rows], axis=1).mean(axis=0) / len(rows)
    return out


def z_mean(score_KN: Scores, clips: pa.Table) -> Scores:
    """The mean of scores that each member standardises by its source training clips of that machine."""
    split, domain = (clips[name].to_numpy(zero_copy_only=False) for name in ("split", "domain"))
    out = np.empty(score_KN.shape[1])
    for rows in by_place(clips).values():
        part = score_KN[:, rows]
        known = part[:, (split[rows] == "train") & (domain[rows] != "target")]
        known = known if known.shape[1] > 1 else part
        spread = np.maximum(known.std(axis=1, keepdims=True), 1e-12)
        out[rows] = ((part - known.mean(axis=1, keepdims=True)) / spread).mean(axis=0)
    return out


RULES: Mapping[str, Callable[[Scores, pa.Table], Scores]] = {
    "mean": mean,
    "median": median,
    "rank_mean": rank_mean,
    "z_mean": z_mean,
}
