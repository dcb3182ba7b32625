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
from orchestrator.members import Member

Scores = NDArray[np.float64]


def score_matrix(
    scores: pa.Table, members: Iterable[Member], clips: pa.Table, output: str, seed: int | None = None
) -> Scores:
    """One output of some members (of one seed, if given) as (K, N), columns in the order of `clips`.

    Members that score one machine each fill a row together. Scores of other clips are left aside. DataError: a member,
    one of its checkpoints or one of its clips has no finite score.
    """
    asked = {m.hash: m for m in members if seed is None or m.seed == seed}
    wanted = sorted({(m.series, epoch) for m in asked.values() for epoch in m.recipe.checkpoints})
    ours = pc.is_in(scores["member"], pa.array(list(asked), pa.string()))
    ours = pc.and_(ours, pc.equal(scores["output"], output))
    chosen = scores.filter(pc.and_(ours, pc.is_in(scores["clip_id"], clips["clip_id"].combine_chunks())))
    row_of = {place: row for row, place in enumerate(wanted)}
    column = pc.index_in(chosen["clip_id"], clips["clip_id"].combine_chunks()).to_numpy(zero_copy_only=False)
    keys = zip(chosen["member"].to_pylist(), chosen["epoch"].to_pylist(), strict=True)
    matrix = np.full((len(wanted), len(clips)), np.nan)
    matrix[[row_of[asked[member].series, epoch] for member, epoch in keys], column] = chosen["score"].to_numpy()
    if not matrix.size or not np.isfinite(matrix).all():
        lacking = [f"{series} epoch {epoch}" for (series, epoch), row in row_of.items() if np.isnan(matrix[row]).any()]
        raise DataError(
            f"the scores table misses clips, or finite scores of them, of {', '.join(lacking) or 'all members'}; "
            "run `asd run STUDY` again"
        )
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
