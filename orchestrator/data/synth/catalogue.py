"""Which machines the factory has, under which conditions they run in source and target, and what can break."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from orchestrator.data.synth.rotating import CAR_TEETH, HOUSINGS, Condition, Fault, bearing, fan, gearbox, toy_car
from orchestrator.data.synth.signals import Wave
from orchestrator.data.synth.striking import PATTERNS, slider, valve

Render = Callable[[Condition, Fault, int, np.random.Generator], Wave]
Conditions = tuple[Condition, ...]


@dataclass(frozen=True)
class Machine:
    """One machine type; `foreign` gives what other units may run at: a (low, high) range or a list of choices."""

    name: str
    render: Render
    source: Conditions
    target: Conditions
    faults: tuple[str, ...]
    foreign: dict[str, tuple[float, float] | list[str]]

    def any_condition(self, rng: np.random.Generator) -> dict[str, str]:
        """Draw a condition that some other unit of this type could run at."""
        return {key: _draw(values, rng) for key, values in self.foreign.items()}


def _draw(values: tuple[float, float] | list[str], rng: np.random.Generator) -> str:
    if isinstance(values, list):
        return str(rng.choice(values))
    return f"{rng.uniform(*values):.4g}"


def _conditions(keys: str, *rows: str) -> Conditions:
    return tuple(dict(zip(keys.split(), row.split(), strict=True)) for row in rows)


_ALL = (
    Machine(
        "fan",
        fan,
        _conditions("rpm bl", "1080 5", "1320 5", "1500 7"),
        _conditions("rpm bl", "1200 6", "1680 4"),
        ("unbalance", "bent_blade", "scraping"),
        {"rpm": (700.0, 2600.0), "bl": ["3", "4", "5", "6", "7", "9"]},
    ),
    Machine(
        "gearbox",
        gearbox,
        _conditions("volt wt", "2.0 50", "2.5 100", "3.0 50"),
        _conditions("volt wt", "2.3 0", "3.4 150"),
        ("chipped_tooth", "worn_teeth", "misalignment"),
        {"volt": (1.5, 4.5), "wt": (0.0, 200.0)},
    ),
    Machine(
        "bearing",
        bearing,
        _conditions("vel loc", "14 A", "18 B", "24 A"),
        _conditions("vel loc", "21 B"),
        ("outer_race", "inner_race", "ball"),
        {"vel": (8.0, 35.0), "loc": list(HOUSINGS)},
    ),
    Machine(
        "slider",
        slider,
        _conditions("vel ac", "400 0.05", "550 0.10", "700 0.05"),
        _conditions("vel ac", "480 0.15"),
        ("rail_notch", "slack_belt", "dry_rail"),
        {"vel": (300.0, 1000.0), "ac": (0.03, 0.2)},
    ),
    Machine(
        "valve",
        valve,
        _conditions("pat bar", "00 2", "01 2", "02 3"),
        _conditions("pat bar", "04 2"),
        ("leak", "sticky", "contaminated"),
        {"pat": list(PATTERNS), "bar": (1.0, 4.5)},
    ),
    Machine(
        "ToyCar",
        toy_car,
        _conditions("car spd", "A1 28V", "A2 31V", "B1 28V"),
        _conditions("car spd", "B2 34V"),
        ("worn_brush", "bent_axle", "worn_gear"),
        {"car": list(CAR_TEETH), "spd": (20.0, 50.0)},
    ),
)
MACHINES: dict[str, Machine] = {machine.name: machine for machine in _ALL}
