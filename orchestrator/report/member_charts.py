"""Drawings of members: their likeness as a map, their losses as curves, and a row's seeds as dots on a line."""

from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from orchestrator.report.svg import COLOURS, Scale, line, mark, number, picture, polyline, short, text, ticks

FEW = 10  # members whose correlations are written into the map
MAP_SIZE, MAP_MARGIN = 300.0, 22.0
CURVE_WIDTH, CURVE_HEIGHT = 360.0, 180.0
TRACK_WIDTH, TRACK_HEIGHT = 320.0, 30.0

Floats = NDArray[np.float64]


def likeness_map(alike_VV: Floats, groups: Sequence[str], label: str) -> Markup:
    """Correlations as squares, numbered as in the table, darker where higher (ten steps from 0 to 1).

    Lines part the groups. Few members have the figure written in.
    """
    count = len(alike_VV)
    side = min(44.0, MAP_SIZE / count)
    parts = []
    for (row, column), value in np.ndenumerate(alike_VV):
        if not np.isfinite(value):
            continue
        x, y = MAP_MARGIN + column * side, MAP_MARGIN + row * side
        step = int(np.clip(value * 10, 0, 9))
        parts.append(
            f'<rect class="heat{step}" x="{number(x)}" y="{number(y)}" width="{number(side)}" height="{number(side)}"/>'
        )
        if count <= FEW:
            figure = f"{value:.2f}".removeprefix("0")
            parts.append(text(x + side / 2, y + side / 2 + 4, figure, f"small on{step}", "middle"))
    for index in range(1, count):
        if groups[index] != groups[index - 1]:
            at, end = MAP_MARGIN + index * side, MAP_MARGIN + count * side
            parts += [line(at, MAP_MARGIN, at, end, "parting"), line(MAP_MARGIN, at, end, at, "parting")]
    every = max(1, round(16 / side))
    for index in range(0, count, every):
        at = MAP_MARGIN + (index + 0.5) * side
        parts.append(text(at, MAP_MARGIN - 6, str(index + 1), "small faint", "middle"))
        parts.append(text(MAP_MARGIN - 5, at + 4, str(index + 1), "small faint", "end"))
    size = MAP_MARGIN + count * side + 1
    return picture(size, size, parts, label, "map", natural=True)


def loss_curves(losses: Mapping[str, Mapping[int, float]], name: str) -> Markup | None:
    """Loss by epoch, a line a member in the order of `losses`, colours repeating after eight; None without epochs."""
    series = {title: loss for title, loss in losses.items() if loss}
    values = [value for loss in series.values() for value in loss.values()]
    if not values:
        return None
    last = max(epoch for loss in series.values() for epoch in loss)
    span = (max(values) - min(values)) or abs(max(values)) or 1.0
    x = Scale(1, max(last, 2), 44, CURVE_WIDTH - 16)
    y = Scale(min(values) - 0.05 * span, max(values) + 0.05 * span, CURVE_HEIGHT - 32, 8)
    parts = [line(x.start, y(at), x.end, y(at), "grid") for at in ticks(y.low, y.high)]
    parts += [text(x.start - 5, y(at) + 4, short(at), "small faint", "end") for at in ticks(y.low, y.high)]
    epochs = [at for at in ticks(1, max(last, 2)) if at == int(at)]
    epochs = epochs if 1 in epochs else [1, *epochs]
    parts += [text(x(at), y.start + 14, short(at), "small faint", "middle") for at in epochs]
    parts += [
        line(x.start, y.start, x.end, y.start, "axis"),
        text(x.end, y.start + 28, "epoch →", "small faint", "end"),
    ]
    for index, (title, loss) in enumerate(series.items()):
        points = [(x(epoch), y(value)) for epoch, value in sorted(loss.items())]
        colour = index % COLOURS
        parts.append(polyline(points, f"curve s{colour}", title))
        parts.append(mark("circle", *points[-1], 2.5, f"dot f{colour}", f"{title}: {points and loss[max(loss)]:.4g}"))
    return picture(
        CURVE_WIDTH, CURVE_HEIGHT, parts, f"{name}: training loss by epoch of {len(series)} members.", "losses"
    )


def spread_scale(figures: Sequence[float]) -> Scale:
    """One scale (percent) for the tracks of all rows, a little wider than its figures."""
    low, high = (min(figures), max(figures)) if figures else (0.0, 100.0)
    margin = max(0.5, 0.06 * (high - low))
    return Scale(low - margin, high + margin, 8, TRACK_WIDTH - 8)


def spread_track(x: Scale, official: float, seeds: Mapping[int, float], published: float | None, name: str) -> Markup:
    """Dots of each seed's official score, a diamond of the ensemble's, a hollow triangle of the published one."""
    middle = TRACK_HEIGHT / 2
    parts = [line(x(at), 3, x(at), TRACK_HEIGHT - 3, "grid") for at in ticks(x.low, x.high)]
    parts.append(line(x.start, middle, x.end, middle, "grid"))
    if published is not None:
        parts.append(mark("triangle", x(published), middle, 6, "published", f"published {published:.2f}"))
    parts += [mark("circle", x(value), middle, 4, "seed", f"seed {seed}: {value:.2f}") for seed, value in seeds.items()]
    parts.append(mark("diamond", x(official), middle, 6, "whole", f"ensemble {official:.2f}"))
    told = ", ".join(f"seed {seed} {value:.2f}" for seed, value in seeds.items())
    return picture(TRACK_WIDTH, TRACK_HEIGHT, parts, f"{name}: ensemble {official:.2f}; {told}", "track", natural=True)


def spread_axis(x: Scale) -> Markup:
    """The figures below the tracks."""
    parts = [text(x(at), 12, short(at), "small faint", "middle") for at in ticks(x.low, x.high)]
    return picture(TRACK_WIDTH, 18, parts, "official score in percent", "track", natural=True)
