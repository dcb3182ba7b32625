"""Embeddings that a study keeps, in the plane of their two main directions, coloured by label and by domain.

The attribute encoders keep every training clip of their machine. Extractors keep only what their backend compares with:
centres of the source clips, and the target clips. Shapes: N points, D embedding size.
"""

import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup
from numpy.typing import NDArray

from orchestrator.data.clips import by_place
from orchestrator.data.true_attributes import read_true_attributes
from orchestrator.errors import UserError
from orchestrator.members import Member
from orchestrator.plan import Plan
from orchestrator.pseudo_labels import TABLE
from orchestrator.recipes import ExtractorRecipe
from orchestrator.report.contents import Contents
from orchestrator.report.svg import COLOURS, SHAPES, Scale, outline, picture
from orchestrator.scoring import EMBEDDINGS

SIZE, MARGIN = 300.0, 10.0
STYLES = COLOURS * 2  # a colour and a shape; further groups are drawn alike


class Key(NamedTuple):
    """One entry of a picture's legend: a group of points that look alike."""

    text: str
    colour: int
    symbol: Markup


class Plot(NamedTuple):
    """One coloured picture of points."""

    title: str
    picture: Markup
    keys: list[Key]


class Space(NamedTuple):
    """The same points in several colourings."""

    title: str
    about: str
    plots: list[Plot]


def plane(embed_ND: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The two leading principal components (N, 2), and each one's share of the variance (2,)."""
    centred_ND = np.asarray(embed_ND, np.float64)
    centred_ND = centred_ND - centred_ND.mean(axis=0)
    left, size, _ = np.linalg.svd(centred_ND, full_matrices=False)
    wide = np.pad(left * size, ((0, 0), (0, max(0, 2 - len(size)))))[:, :2]
    variance = np.pad(size**2, (0, max(0, 2 - len(size))))
    return wide, variance[:2] / (variance.sum() or 1.0)


def plot(plane_N2: NDArray[np.float64], labels: Sequence[str], title: str, name: str) -> Plot:
    """The points by label: the largest groups have a colour and shape of their own, all others look alike."""
    names, of_N, sizes = np.unique(np.asarray(labels, str), return_inverse=True, return_counts=True)
    order = np.argsort(-sizes, kind="stable")
    shown, rest = sorted(order[:STYLES], key=lambda g: str(names[g])), order[STYLES:]
    x, y = _scales(plane_N2)
    paths, keys = [], []
    if len(rest):
        rows = np.isin(of_N, rest)
        paths.append(_cloud(plane_N2[rows], x, y, "circle", "f-rest"))
        keys.append(Key(f"{len(rest)} smaller groups ({rows.sum()})", -1, _symbol("circle", "f-rest")))
    for style, group in enumerate(shown):
        shape, colour = SHAPES[(style + style // COLOURS) % len(SHAPES)], style % COLOURS
        paths.append(_cloud(plane_N2[of_N == group], x, y, shape, f"f{colour}"))
        keys.append(Key(f"{names[group]} ({sizes[group]})", colour, _symbol(shape, f"f{colour}")))
    label = f"{name}: {len(plane_N2)} points by {title}, in {len(names)} groups"
    return Plot(title, picture(SIZE, SIZE, paths, label, "cloud"), [*keys[1:], keys[0]] if len(rest) else keys)


def _scales(plane_N2: NDArray[np.float64]) -> tuple[Scale, Scale]:
    """The same unit on both axes, so that distances are distances."""
    low, high = plane_N2.min(axis=0), plane_N2.max(axis=0)
    middle, half = (low + high) / 2, float((high - low).max()) / 2 or 1.0
    return (
        Scale(middle[0] - half, middle[0] + half, MARGIN, SIZE - MARGIN),
        Scale(middle[1] - half, middle[1] + half, SIZE - MARGIN, MARGIN),
    )


def _cloud(points: NDArray[np.float64], x: Scale, y: Scale, shape: str, kind: str) -> str:
    """All points of a group as one path: a few hundred groups of elements would make the page slow."""
    size = float(np.clip(60 / np.sqrt(len(points) + 1), 2.2, 4.0))
    return f'<path class="point {kind}" d="{"".join(outline(shape, x(a), y(b), size) for a, b in points)}"/>'


def _symbol(shape: str, kind: str) -> Markup:
    return Markup('<svg class="key" width="12" height="12" aria-hidden="true"><path class="{}" d="{}"/></svg>').format(
        kind, outline(shape, 6, 6, 4.5)
    )


def encoder_spaces(contents: Contents) -> list[Space]:
    """The target space of each machine without attributes: by pseudo-label, domain and, where known, true attribute."""
    plan = contents.plan
    if plan is None or not plan.encoders or not plan.pseudo_labels_folder().exists(TABLE):
        return []
    table, truth = plan.pseudo_labels_folder().read_table(TABLE), _truth(contents)
    spaces = []
    for place, rows in by_place(table).items():
        own, member = table.take(rows), plan.encoders[place[0]][1]
        embed_ND = _embeddings(plan, member, own["clip_id"])
        if embed_ND is None:
            continue
        plane_N2, share = plane(embed_ND)
        name = contents.place(place)
        labels = ["+".join(map(str, found)) for found in own["labels"].to_pylist()]
        colourings = {"pseudo-label": labels, "domain": own["domain"].to_pylist()}
        true = [truth.get(clip_id, "") for clip_id in own["clip_id"].to_pylist()]
        if all(true):
            colourings["true attribute (never trained on)"] = true
        about = f"{len(own)} training clips; the axes hold {share[0]:.0%} and {share[1]:.0%} of the variance"
        spaces.append(Space(name, about, [plot(plane_N2, by, title, name) for title, by in colourings.items()]))
    return spaces


def _embeddings(plan: Plan, member: Member, clip_ids: pa.ChunkedArray) -> NDArray[np.float32] | None:
    folder = member.folder(plan.store)
    if not folder.exists(EMBEDDINGS):
        return None
    table = folder.read_table(EMBEDDINGS)
    rows = pc.index_in(clip_ids, table["clip_id"].combine_chunks())
    return np.stack(table["embedding"].take(rows).to_numpy(zero_copy_only=False))


def _truth(contents: Contents) -> dict[str, str]:
    """True attributes by clip id, where the study names a table of them that can still be read."""
    path = contents.study.pseudo_labels.truth
    try:
        known = read_true_attributes(path) if path else {}
    except UserError:
        return {}
    names = zip(*(contents.clips[name].to_pylist() for name in ("clip_id", "machine", "file_name")), strict=True)
    found = {clip_id: known.get((machine, name.rpartition(".")[0])) for clip_id, machine, name in names}
    return {clip_id: attribute for clip_id, attribute in found.items() if attribute}


def reference_space(contents: Contents, groups: Sequence[str]) -> Space | None:
    """What the first extractor of some groups compares with, of all machines, by machine and by domain."""
    plan = contents.plan
    members = [member for group in groups for member in (plan.groups.get(group, ()) if plan else ())]
    member = next((member for member in members if isinstance(member.recipe, ExtractorRecipe)), None)
    if plan is None or member is None:
        return None
    folder, name = member.folder(plan.store), f"backends_{plan.key}.npz"
    if not folder.exists(name):
        return None
    with np.load(io.BytesIO(folder.read(name)), allow_pickle=False) as kept:
        last = str(max(member.recipe.checkpoints))
        found = {key: kept[key] for key in kept.files if key.rpartition("/")[2] == last}
    if not found:
        return None
    machines, kinds = [], []
    for key, references in found.items():
        machine, section, _ = key.rsplit("/", 2)
        targets = min(_target_clips(contents, machine, section), len(references))
        machines += [contents.place((machine, section))] * len(references)
        kinds += ["centre of source clips"] * (len(references) - targets) + ["target clip"] * targets
    plane_N2, share = plane(np.concatenate(list(found.values())))
    about = (
        f"{member.title}, epoch {last}: {len(plane_N2)} references; the axes hold {share[0]:.0%} and {share[1]:.0%} of "
        "the variance"
    )
    colourings = {"machine": machines, "domain": kinds}
    return Space(
        "What test clips are compared with",
        about,
        [plot(plane_N2, by, title, "References") for title, by in colourings.items()],
    )


def _target_clips(contents: Contents, machine: str, section: str) -> int:
    wanted = {"machine": machine, "section": section, "split": "train", "domain": "target"}
    chosen = contents.clips
    for name, value in wanted.items():
        chosen = chosen.filter(pc.equal(chosen[name], value))
    return len(chosen)
