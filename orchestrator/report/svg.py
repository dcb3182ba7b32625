"""Pieces of SVG drawn by hand: small, sharp at any size, coloured by the page's style sheet in light and dark."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

COLOURS = 8  # of the style sheet: f0 .. f7 fill, s0 .. s7 stroke
SHAPES = ("circle", "triangle", "square", "diamond")


class Scale(NamedTuple):
    """Maps values from `low` .. `high` to pixels from `start` .. `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        span = self.high - self.low
        return self.start + (self.end - self.start) * ((value - self.low) / span if span else 0.5)


def picture(
    width: float, height: float, parts: Sequence[str], label: str, kind: str = "", natural: bool = False
) -> Markup:
    """A drawing as wide as its place, or with `natural` of its own size; screen readers say `label` instead."""
    size = Markup(' width="{}" height="{}"').format(number(width), number(height)) if natural else ""
    return Markup('<svg class="chart {}" viewBox="0 0 {} {}"{} role="img" aria-label="{}">{}</svg>').format(
        kind, number(width), number(height), size, label, Markup("".join(parts))
    )


def number(value: float) -> str:
    """A coordinate to a tenth of a pixel, without a trailing zero."""
    return f"{value:.1f}".removesuffix(".0")


def text(x: float, y: float, content: str, kind: str = "", anchor: str = "start") -> str:
    kinds = f' class="{kind}"' if kind else ""
    anchors = "" if anchor == "start" else f' text-anchor="{anchor}"'
    return f'<text x="{number(x)}" y="{number(y)}"{kinds}{anchors}>{escape(content)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<path class="{kind}" d="M{number(x1)} {number(y1)}L{number(x2)} {number(y2)}"/>'


def polyline(points: Sequence[tuple[float, float]], kind: str, title: str = "") -> str:
    """A line through points in pixels; `title` shows under the mouse."""
    told = "L".join(f"{number(x)} {number(y)}" for x, y in points)
    return f'<path class="{kind}" d="M{told}">{_title(title)}</path>' if told else ""


def rectangle(x: float, y: float, width: float, height: float, kind: str) -> str:
    return f'<path class="{kind}" d="M{number(x)} {number(y)}h{number(width)}v{number(height)}h{number(-width)}z"/>'


def outline(shape: str, x: float, y: float, size: float) -> str:
    """One of SHAPES as path data, `size` from its middle to its edge."""
    s, wide, back = number(size), number(2 * size), number(-2 * size)
    left, top, low = number(x - size), number(y - size), number(-size)
    return {
        "circle": f"M{left} {number(y)}a{s} {s} 0 1 0 {wide} 0a{s} {s} 0 1 0 {back} 0z",
        "triangle": f"M{number(x)} {top}l{s} {number(1.8 * size)}h{back}z",
        "square": f"M{left} {top}h{wide}v{wide}h{back}z",
        "diamond": f"M{number(x)} {top}l{s} {s}l{low} {s}l{low} {low}z",
    }[shape]


def mark(shape: str, x: float, y: float, size: float, kind: str, title: str = "") -> str:
    """One symbol; `title` shows under the mouse."""
    return f'<path class="{kind}" d="{outline(shape, x, y, size)}">{_title(title)}</path>'


def _title(content: str) -> str:
    return f"<title>{escape(content)}</title>" if content else ""


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round values inside low .. high, a step of 1, 2 or 5 times a power of ten apart."""
    if not high > low:
        return [low]
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def short(value: float) -> str:
    """A value for an axis: 0.5, 12, 1.6e-05."""
    return "0" if value == 0 else f"{value:.3g}"
