"""Machines that move in strokes: slider and valve. Same rules as `rotating.py`: healthy draws first, sound of RMS 1."""

import numpy as np

from orchestrator.data.synth.rotating import Condition, Fault
from orchestrator.data.synth.signals import SAMPLE_RATE, Wave, harmonics, noise, ring, seconds_axis, strikes_at, to_rms

STROKE_MM, DWELL_S, SCREW_PITCH_MM = 180.0, 0.08, 0.9
SCREW_VOICE = [0.5, 0.18, 0.3, 0.1, 0.18, 0.05, 0.1]  # amplitudes of the screw tone's harmonics: uneven, to be known by
Resonances = list[tuple[float, float, float]]


def slider_period_s(condition: Condition) -> float:
    """Time of a stroke there and back = 2 × (stroke / speed + ramp + dwell)."""
    return 2 * (STROKE_MM / float(condition["vel"]) + float(condition["ac"]) + DWELL_S)


def _carriage_speed(condition: Condition, place_T: Wave, half_s: float, stretch: float) -> Wave:
    """Speed as a share of `vel`, (T,): it ramps up in `ac` seconds, runs, ramps down, then dwells."""
    elapsed_T = (place_T % 1.0) * half_s
    moving_s = (half_s - DWELL_S) * stretch
    return np.clip(np.minimum(elapsed_T, moving_s - elapsed_T) / float(condition["ac"]), 0, 1)


def slider(condition: Condition, fault: Fault, samples: int, rng: np.random.Generator) -> Wave:
    """A slider runs to and fro: a screw tone (speed / pitch) and rolling noise follow its speed; it knocks at each end.

    Faults: `rail_notch` (a click at one place of every pass), `slack_belt` (screw tone flutters and strokes
    end late), `dry_rail` (a thin squeal while it moves).
    """
    half_s = slider_period_s(condition) / 2
    place_T = seconds_axis(samples) / half_s * (1 + rng.uniform(-0.004, 0.004)) + rng.uniform(0, 2)
    speed_T = _carriage_speed(condition, place_T, half_s, 1 + 0.2 * fault.of("slack_belt"))
    flutter_T = 1 + 0.06 * fault.of("slack_belt") * np.sin(2 * np.pi * 13 * seconds_axis(samples))
    screw_T = np.cumsum(2 * np.pi * float(condition["vel"]) / SCREW_PITCH_MM * speed_T * flutter_T / SAMPLE_RATE)
    tone_T = harmonics(screw_T, SCREW_VOICE, rng) * speed_T
    rolling_T = 0.6 * noise(rng, samples, 200, 6500, -3) * speed_T
    knock_T = _at_places(place_T, 0.0, rng, [(420, 8, 1.0), (1250, 12, 0.6)])
    wear_T = np.zeros(samples)
    if fault.of("rail_notch"):
        wear_T = 15.0 * fault.strength * _at_places(place_T, 0.37, rng, [(2100, 10, 1.0), (3900, 14, 0.8)])
    if fault.of("dry_rail"):
        wear_T = 0.4 * fault.strength * _squeal(samples, rng) * speed_T
    return to_rms(tone_T + rolling_T + 1.5 * knock_T + wear_T)


def _squeal(samples: int, rng: np.random.Generator) -> Wave:
    """A thin tone near 2.9 kHz that wavers."""
    pitch_hz = 2900 * (1 + 0.02 * np.sin(2 * np.pi * rng.uniform(3, 5) * seconds_axis(samples)))
    return harmonics(np.cumsum(2 * np.pi * pitch_hz / SAMPLE_RATE), [1.0, 0.4], rng)


def _at_places(place_T: Wave, where: float, rng: np.random.Generator, resonances: Resonances) -> Wave:
    """Ring a structure whenever the carriage passes `where` (share of a half stroke), never twice alike."""
    passed_T = np.diff(np.floor(place_T - where), prepend=np.floor(place_T[0] - where))
    return ring(passed_T * rng.uniform(0.7, 1.3, len(place_T)), resonances)


# (opening time, time open) in s within a cycle; the first number is the cycle, s
PATTERNS: dict[str, tuple[float, tuple[tuple[float, float], ...]]] = {
    "00": (0.90, ((0.05, 0.12), (0.45, 0.12))),
    "01": (1.10, ((0.05, 0.28), (0.60, 0.08))),
    "02": (0.75, ((0.05, 0.06), (0.25, 0.06), (0.45, 0.06))),
    "03": (1.30, ((0.10, 0.45), (0.80, 0.15))),
    "04": (0.60, ((0.05, 0.20),)),
    "05": (1.00, ((0.05, 0.07), (0.20, 0.30), (0.70, 0.07))),
}


COIL: Resonances = [(640, 9, 1.0), (1900, 14, 0.9)]
SEAT: Resonances = [(410, 8, 1.0), (2600, 12, 0.6)]


def valve(condition: Condition, fault: Fault, samples: int, rng: np.random.Generator) -> Wave:
    """A valve clicks open, hisses while gas flows and clicks shut, in a fixed pattern (`pat`); pressure sets the hiss.

    Faults: `leak` (a thin hiss while it should be shut), `sticky` (opens late, then with a second click),
    `contaminated` (dirt makes the jet whistle).
    """
    opens_s, closes_s = valve_times(condition, samples, rng)
    centre_hz = 900 + 700 * float(condition["bar"])
    jet_T = noise(rng, samples, 0.55 * centre_hz, 1.6 * centre_hz)
    if fault.of("sticky"):
        late_s = fault.strength * rng.uniform(0.04, 0.10, len(opens_s))
        opens_s = np.minimum(opens_s + late_s, closes_s - 0.02)
    flow_T = _flow(opens_s, closes_s, samples)
    hiss_T = jet_T * flow_T
    clicks_T = ring(strikes_at(opens_s, 3.0, samples), COIL) + ring(strikes_at(closes_s, 2.4, samples), SEAT)
    if fault.of("sticky"):
        clicks_T += ring(strikes_at(opens_s + 0.018, 4.0 * fault.strength, samples), COIL)
    if fault.of("leak"):
        hiss_T += 0.5 * fault.strength * noise(rng, samples, 1.7 * centre_hz, 2.4 * centre_hz) * (flow_T == 0)
    if fault.of("contaminated"):
        whistle_T = harmonics(2 * np.pi * 1.35 * centre_hz * seconds_axis(samples), [1.0, 0.3], rng)
        hiss_T += 1.0 * fault.strength * whistle_T * flow_T
    return to_rms(hiss_T + clicks_T)


def _flow(opens_s: Wave, closes_s: Wave, samples: int) -> Wave:
    """Gas flow (T,), 0 when shut: full at opening, half once the pressure has fallen (time constant 50 ms)."""
    flow_T, time_T = np.zeros(samples), seconds_axis(samples)
    for start_s, end_s in zip(opens_s, closes_s, strict=True):
        first, last = np.searchsorted(time_T, [start_s, end_s])
        flow_T[first:last] = 0.5 + 0.5 * np.exp(-(time_T[first:last] - start_s) / 0.05)
    return flow_T


def valve_times(condition: Condition, samples: int, rng: np.random.Generator) -> tuple[Wave, Wave]:
    """Opening and closing times, s, (events,) each: the pattern repeated from a random start with 3 ms of jitter."""
    cycle_s, events = PATTERNS[condition["pat"]]
    cycles = np.arange(-1, int(samples / SAMPLE_RATE / cycle_s) + 1) * cycle_s + rng.uniform(0, cycle_s)
    opens_s = (cycles[:, None] + np.array([start for start, _ in events])).ravel()
    closes_s = opens_s + np.tile([length for _, length in events], len(cycles))
    jitter = 0.003 * rng.standard_normal((2, len(opens_s)))
    return opens_s + jitter[0], closes_s + jitter[1]
