"""Machines that turn: fan, gearbox, bearing and ToyCar, as sums of shaft-locked tones, noise and ringing impacts.

Each function takes the attributes of one clip, a fault (strength 0 is healthy) and returns the machine's sound (T,) of
RMS 1, before any background. Draws for the healthy sound come first, so a fault only changes the same healthy clip.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from orchestrator.data.synth.signals import (
    SAMPLE_RATE,
    Wave,
    harmonics,
    noise,
    once_a_turn,
    ring,
    roll_off,
    seconds_axis,
    shaft_angle,
    strikes_at,
    to_rms,
)

Condition = Mapping[str, str]


@dataclass(frozen=True)
class Fault:
    """What is broken and how badly: about 1 is mild and 3 strong at default difficulty, 0 is healthy."""

    kind: str = "none"
    strength: float = 0.0

    def of(self, kind: str) -> float:
        """Strength of one kind of fault: 0 unless it is this one."""
        return self.strength if self.kind == kind else 0.0


HEALTHY = Fault()


def fan_blade_pass_hz(condition: Condition) -> float:
    """Blade-pass frequency = blades × rpm / 60."""
    return int(condition["bl"]) * float(condition["rpm"]) / 60


def fan(condition: Condition, fault: Fault, samples: int, rng: np.random.Generator) -> Wave:
    """A fan hums at the blade-pass frequency (blades × rpm / 60) and its harmonics, over broadband flow noise.

    Faults: `unbalance` (blade tones beat once a turn, lines at the shaft rate), `bent_blade` (blades are no longer
    alike, so shaft harmonics between the blade tones appear), `scraping` (a short high hiss once a turn).
    """
    blades = int(condition["bl"])
    shaft_T = shaft_angle(float(condition["rpm"]) / 60, samples, rng)
    blade_T = harmonics(blades * shaft_T, 0.5 * roll_off(8, 0.7), rng)
    hub_T = harmonics(shaft_T, 0.08 * roll_off(4), rng)
    flow_T = 0.6 * noise(rng, samples, 80, 6000, -4) * (1 + 0.3 * np.cos(blades * shaft_T))
    if fault.of("unbalance"):
        blade_T *= 1 + 1.2 * fault.strength * np.cos(shaft_T)
        hub_T += harmonics(shaft_T, 0.25 * fault.strength * roll_off(6, 0.5), rng)
    if fault.of("bent_blade"):
        hub_T += harmonics(shaft_T, 0.2 * fault.strength * all_but_every(blades, 4 * blades), rng)
    if fault.of("scraping"):
        touch_T = np.exp(6 * (np.cos(shaft_T) - 1))
        hub_T += 0.75 * fault.strength * touch_T * noise(rng, samples, 2200, 5200)
    return to_rms(blade_T + hub_T + flow_T)


def all_but_every(step: int, count: int) -> Wave:
    """Ones for the harmonics 1 … count, zero at each multiple of `step`."""
    between: Wave = (np.arange(1, count + 1) % step != 0).astype(float)
    return between


GEARBOX_TEETH = 23


def gearbox_shaft_hz(condition: Condition) -> float:
    """Shaft rate of the geared motor: 9 Hz a volt, minus 4 % for each 100 g that it lifts."""
    return 9.0 * float(condition["volt"]) * (1 - 0.04 * float(condition["wt"]) / 100)


def gearbox(condition: Condition, fault: Fault, samples: int, rng: np.random.Generator) -> Wave:
    """A gearbox whines at the mesh frequency (teeth × shaft rate) and its harmonics, which load makes richer.

    Faults: `chipped_tooth` (one knock a turn), `worn_teeth` (side bands at mesh ± k × shaft rate),
    `misalignment` (tones half-way between the mesh harmonics).
    """
    load = float(condition["wt"]) / 100
    shaft_T = shaft_angle(gearbox_shaft_hz(condition), samples, rng)
    mesh_T = harmonics(GEARBOX_TEETH * shaft_T, 0.6 * roll_off(5, 1.6 - 0.5 * load), rng)
    case_T = harmonics(shaft_T, 0.1 * roll_off(5), rng) + 0.5 * noise(rng, samples, 60, 7000, -3)
    beat_T = harmonics(shaft_T, [1.0, 0.6, 0.4], rng)
    mesh_T *= 1 + (0.1 + 0.8 * fault.of("worn_teeth")) * beat_T
    if fault.of("chipped_tooth"):
        knock_T = ring(once_a_turn(shaft_T), [(1150, 12, 1.0), (2700, 18, 0.8), (4300, 20, 0.6)])
        case_T += 1.3 * fault.strength * knock_T
    if fault.of("misalignment"):
        case_T += 0.22 * fault.strength * harmonics(GEARBOX_TEETH * shaft_T / 2, [1.0, 0, 0.8, 0, 0.6], rng)
    return to_rms(mesh_T + case_T)


BALLS, BALL_TO_PITCH = 9, 0.26
HOUSINGS = {
    "A": (870.0, 2350.0),
    "B": (1060.0, 2900.0),
    "C": (1290.0, 3300.0),
    "D": (740.0, 3900.0),
    "E": (1480.0, 2600.0),
}


def bearing_defect_hz(condition: Condition) -> dict[str, float]:
    """Rates at which a defect is rolled over, from the shaft rate f, n balls and x = ball / pitch diameter.

    Outer race n/2 · f(1 − x), inner race n/2 · f(1 + x), ball (1 − x²) f / (2x).
    """
    shaft_hz, x = float(condition["vel"]), BALL_TO_PITCH
    outer, inner = BALLS / 2 * shaft_hz * (1 - x), BALLS / 2 * shaft_hz * (1 + x)
    return {"outer_race": outer, "inner_race": inner, "ball": shaft_hz * (1 - x**2) / (2 * x)}


def bearing(condition: Condition, fault: Fault, samples: int, rng: np.random.Generator) -> Wave:
    """A bearing rustles: rolling noise rings the housing's resonances, modulated at the shaft rate (`vel`, Hz).

    Faults: a pit on the `outer_race`, the `inner_race` or a `ball` strikes the housing at that part's defect rate.
    """
    resonances = [(hz, 14.0, gain) for hz, gain in zip(HOUSINGS[condition["loc"]], (1.0, 0.7), strict=True)]
    shaft_T = shaft_angle(float(condition["vel"]), samples, rng)
    rolling_T = to_rms(ring(noise(rng, samples, 50, 7500, -1), resonances)) * (1 + 0.25 * np.cos(shaft_T))
    cage_T = harmonics(shaft_T * BALLS / 2 * (1 - BALL_TO_PITCH), 0.12 * roll_off(6, 0.4), rng)
    tones_T = harmonics(shaft_T, 0.35 * roll_off(6, 0.8), rng)
    if fault.strength:
        rate_hz = bearing_defect_hz(condition)[fault.kind]
        rolling_T += 3.0 * fault.strength * _pit(rate_hz, resonances, samples, rng)
    return to_rms(rolling_T + cage_T + tones_T)


def _pit(rate_hz: float, resonances: list[tuple[float, float, float]], samples: int, rng: np.random.Generator) -> Wave:
    """Strike the housing at the defect rate, with 1 % of slip between strikes; RMS 1."""
    slip = 1 + 0.01 * rng.standard_normal(int(rate_hz * samples / SAMPLE_RATE) + 2)
    strikes_T = strikes_at(np.cumsum(slip) / rate_hz, rng.uniform(0.6, 1.4, len(slip)), samples)
    return to_rms(ring(strikes_T, [(hz * 1.02, q * 1.3, gain) for hz, q, gain in resonances]))


CAR_TEETH = {"A1": 11, "A2": 13, "B1": 16, "B2": 19, "C1": 9}


def toy_car(condition: Condition, fault: Fault, samples: int, rng: np.random.Generator) -> Wave:
    """A toy car speeds up and slows down: its gear whine (teeth × motor rate) glides over the commutator's buzz.

    The motor turns 1.5 times a second and volt (`spd`), the wheels 7 times slower. Faults: `worn_brush` (sparks crackle
    at the commutator), `bent_axle` (whine warbles with the wheels), `worn_gear` (tones at whole motor turns).
    """
    base_hz = 1.5 * float(condition["spd"].rstrip("V"))
    sweep_T = np.sin(2 * np.pi * rng.uniform(0.28, 0.36) * seconds_axis(samples) + rng.uniform(0, 2 * np.pi))
    motor_T = shaft_angle(base_hz * (1 + 0.06 * sweep_T), samples, rng)
    whine_T = harmonics(CAR_TEETH[condition["car"]] * motor_T, 0.6 * roll_off(5, 0.9), rng)
    buzz_T = harmonics(6 * motor_T, 0.25 * roll_off(10, 0.5), rng) + 0.6 * noise(rng, samples, 150, 7500, -2)
    if fault.of("worn_brush"):
        spark_T = once_a_turn(6 * motor_T) * (rng.random(samples) < 0.25)
        buzz_T += 0.45 * fault.strength * to_rms(ring(spark_T, [(3600, 6, 1.0), (5400, 8, 0.7)]))
    if fault.of("bent_axle"):
        whine_T *= 1 + 1.6 * fault.strength * np.cos(motor_T / 7)
    if fault.of("worn_gear"):
        whine_T += 0.17 * fault.strength * harmonics(motor_T, all_but_every(3, 24), rng)
    return to_rms(whine_T + buzz_T)
