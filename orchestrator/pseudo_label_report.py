"""How good pseudo-labels are: agreement with true attributes where somebody knows them, and a picture of the space.

Shapes: N clips of one machine, D embedding size, G groups of clips (a label set or a true attribute each).
"""

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = NDArray[np.floating]

# Okabe and Ito's colours for all kinds of colour vision, but wine for their yellow, which is lost on a white ground.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#882255", "#222222")
MARKERS = ("o", "^")  # the second half of the groups repeats the colours with another shape
SHOWN = len(COLOURS) * len(MARKERS)  # groups with a legend entry of their own: the largest
LEGEND_COLUMNS = 2
LONGEST_NAME = 26  # characters
REST = "#c4c4c4"


class Agreement(NamedTuple):
    """How well two divisions of the same clips agree: 1 where they are equal, whatever the groups are called."""

    ari: float  # adjusted Rand index; about 0 by chance, at least -0.5
    nmi: float  # normalised mutual information, 0 to 1, arithmetic mean; grows with the number of groups


class _Group(NamedTuple):
    """Clips that are drawn alike."""

    text: str
    rows: NDArray[np.int64]
    style: int  # which colour and marker; SHOWN stands for the groups that are too many

    @property
    def look(self) -> dict[str, Any]:
        """Colour and marker as matplotlib takes them."""
        if self.style == SHOWN:
            return {"color": REST, "marker": "."}
        return {"color": COLOURS[self.style % len(COLOURS)], "marker": MARKERS[self.style // len(COLOURS)]}


def agreement(cluster_N: ArrayLike, truth_N: ArrayLike) -> Agreement:
    """Compare found groups with true ones; both may be numbers or names. ValueError: no clip, or not one of each."""
    found, truth = np.asarray(cluster_N), np.asarray(truth_N)
    if not len(found) or len(found) != len(truth):
        raise ValueError(f"{len(found)} labels and {len(truth)} true attributes: there must be one of each a clip")
    return Agreement(float(adjusted_rand_score(truth, found)), float(normalized_mutual_info_score(truth, found)))


def draw_embeddings(
    embed_ND: Floats, cluster_N: ArrayLike, label_text_N: Sequence[str], truth_N: Sequence[str] | None, title: str
) -> bytes:
    """Draw the embeddings in the plane of their two main directions, coloured by label set: a PNG.

    Clips with the same text have the same colour; the legend says how many clips (and, if several, clusters) that are.
    With `truth_N` a second panel shows the true attributes of the same points, each in the colour of the label set
    that it matches best (one to one). The same input gives the same picture.
    """
    from matplotlib.figure import Figure  # takes half a second, which most commands need not wait for

    plane_N2, axis_names = _plane(np.asarray(embed_ND, dtype=np.float64))
    found = _groups(label_text_N)
    panels = [("Pseudo-labels", "label set", found)]
    if truth_N is not None:
        panels.append((_truth_title(label_text_N, truth_N), "true attribute", _groups(truth_N, like=found)))
    rows = -(-min(max(len(groups) for _, _, groups in panels), SHOWN + 1) // LEGEND_COLUMNS)
    figure = Figure(figsize=(6.6 * len(panels), 5.4 + 0.19 * rows), dpi=120, layout="constrained")
    figure.suptitle(f"{_plain(title)}: {len(plane_N2)} training clips", fontsize=14)
    many: Any = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)
    for axes, (heading, kind, groups) in zip(many[0], panels, strict=True):
        axes.set(title=heading, xlabel=axis_names[0], ylabel=axis_names[1])
        _scatter(axes, plane_N2, groups)
        _legend(axes, kind, groups, np.asarray(cluster_N) if groups is found else None)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", metadata={"Software": None})
    return picture.getvalue()


def _plane(embed_ND: NDArray[np.float64]) -> tuple[NDArray[np.float64], list[str]]:
    """The two leading principal components (N, 2) and what the axes are called; a missing direction is all zero."""
    wide = np.pad(embed_ND, ((0, max(0, 2 - len(embed_ND))), (0, max(0, 2 - embed_ND.shape[1]))), mode="edge")
    with np.errstate(invalid="ignore"):  # equal clips have no variance to explain
        fit = PCA(2, svd_solver="full").fit(wide)
    shares = np.nan_to_num(fit.explained_variance_ratio_)
    names = [f"principal component {n} ({share:.0%} of the variance)" for n, share in enumerate(shares, 1)]
    return fit.transform(wide)[: len(embed_ND)], names


def _truth_title(label_text_N: Sequence[str], truth_N: Sequence[str]) -> str:
    found = agreement(label_text_N, truth_N)
    return f"True attributes (never trained on): ARI {found.ari:.2f}, NMI {found.nmi:.2f}"


def _groups(text_N: Sequence[str], like: Sequence[_Group] = ()) -> list[_Group]:
    """The clips of each text in natural order (2 before 10), and those beyond the SHOWN largest groups last.

    `like` are groups whose styles are taken over where the clips are the same.
    """
    texts, of_N, sizes = np.unique(np.asarray(text_N, dtype=str), return_inverse=True, return_counts=True)
    largest = np.argsort(-sizes, kind="stable")
    shown = sorted(largest[:SHOWN], key=lambda g: _natural(str(texts[g])))
    rows = [np.flatnonzero(of_N == g) for g in [*shown, *largest[SHOWN:]]]
    styles = [*_matching(rows[:SHOWN], like), *[SHOWN] * len(rows[SHOWN:])]
    return [_Group(str(texts[of_N[own[0]]]), own, style) for own, style in zip(rows, styles, strict=True)]


def _matching(rows: Sequence[NDArray[np.int64]], like: Sequence[_Group]) -> list[int]:
    """A style for each group, no two the same, so that as many clips as possible look as they do in `like`."""
    if not like:
        return list(range(len(rows)))
    shared = np.zeros((len(rows), SHOWN))
    for other in like:
        if other.style < SHOWN:
            shared[:, other.style] = [len(np.intersect1d(own, other.rows)) for own in rows]
    # a group without a match of its own should at least not have the colour of the set that holds its clips
    twin = np.roll(shared, len(COLOURS), axis=1)
    return [int(style) for style in linear_sum_assignment(shared - 0.01 * twin, maximize=True)[1]]


def _natural(text: str) -> list[tuple[int, int, str]]:
    parts = [part for part in re.split(r"([0-9]+)", text) if part]
    return [(0, int(part), "") if part[0] in "0123456789" else (1, 0, part) for part in parts]


def _scatter(axes: "Axes", plane_N2: NDArray[np.float64], groups: Sequence[_Group]) -> None:
    """Grey first, then large groups before small ones, so that no small one is buried."""
    opacity = float(np.clip(15 / np.sqrt(len(plane_N2)), 0.3, 0.9))
    for layer, group in enumerate(sorted(groups, key=lambda g: (g.style < SHOWN, -len(g.rows))), 2):
        x, y = plane_N2[group.rows].T
        axes.scatter(x, y, s=28, alpha=opacity, linewidths=0, zorder=layer, **group.look)
    axes.grid(color="#e6e6e6", linewidth=0.6, zorder=0)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(axes: "Axes", kind: str, groups: Sequence[_Group], cluster_N: NDArray[Any] | None) -> None:
    """Below the panel: every group that has a style of its own, and one entry for all others."""
    from matplotlib.lines import Line2D

    entries = [(group, _entry(group, cluster_N)) for group in groups if group.style < SHOWN]
    if rest := groups[SHOWN:]:
        entries.append((rest[0], f"{len(rest)} smaller groups: {sum(len(group.rows) for group in rest)}"))
    handles = [Line2D([], [], linestyle="", label=text, **group.look) for group, text in entries]
    axes.legend(
        handles=handles,
        title=f"{len(groups)} {kind}{'s' * (len(groups) != 1)}: number of clips",
        loc="upper center",
        bbox_to_anchor=(0.5, -0.11),
        ncols=LEGEND_COLUMNS,
        frameon=False,
        fontsize=9,
    )


def _entry(group: _Group, cluster_N: NDArray[Any] | None) -> str:
    name = group.text if len(group.text) <= LONGEST_NAME else f"{group.text[:16]}…{group.text[-9:]}"
    clusters = 1 if cluster_N is None else len(np.unique(cluster_N[group.rows]))
    # matplotlib leaves out legend entries that begin with an underscore
    return f" {_plain(name)}: {len(group.rows)}" + (f" ({clusters} clusters)" if clusters > 1 else "")


def _plain(text: str) -> str:
    """Keep matplotlib from reading dollar signs as formulas."""
    return text.replace("$", r"\$")
