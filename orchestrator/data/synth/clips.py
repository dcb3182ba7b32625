"""From a plan of clips to their sounds: machine, background, neighbours, one signal-to-noise ratio, one gain."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from orchestrator.data.synth.catalogue import MACHINES
from orchestrator.data.synth.options import FactoryOptions
from orchestrator.data.synth.rotating import HEALTHY, Condition, Fault
from orchestrator.data.synth.signals import (
    SAMPLE_RATE,
    Wave,
    generator,
    harmonics,
    mix_at_snr,
    noise,
    seconds_axis,
    to_rms,
)

SNR_SPREAD_DB, GAIN_SPREAD_DB, RESPONSE_DB, LEVEL = 3.0, 4.0, 3.5, 0.05


@dataclass(frozen=True)
class ClipPlan:
    """One clip to make: what runs under which condition, and what its file is called."""

    machine: str
    domain: str
    split: str
    label: str
    index: int
    condition: Condition
    shows_attributes: bool

    @property
    def true_attribute(self) -> str:
        """The attribute string, as `rpm_1080_bl_5`."""
        return "_".join(f"{key}_{value}" for key, value in self.condition.items())

    @property
    def file_name(self) -> str:
        """File name in the challenge's layout; hidden attributes read `noAttribute`."""
        attribute = self.true_attribute if self.shows_attributes else "noAttribute"
        return f"section_00_{self.domain}_{self.split}_{self.label}_{self.index:04d}_{attribute}.wav"

    @property
    def path(self) -> str:
        """Path below the factory's folder."""
        return f"{self.machine}/{self.split}/{self.file_name}"


@dataclass(frozen=True)
class ClipTruth:
    """What was drawn for one clip, to judge detectors: never an input of training."""

    path: str
    true_attribute: str
    snr_db: float
    fault: str
    strength: float


def plan_clips(options: FactoryOptions) -> list[ClipPlan]:
    """List every clip of the factory, conditions taken in turn so that each has its share."""
    return [clip for machine in options.machines for clip in _plan_machine(machine, options)]


def _plan_machine(machine: str, options: FactoryOptions) -> Iterator[ClipPlan]:
    tests = [
        (d, "test", label, options.test_per_condition) for d in ("source", "target") for label in ("normal", "anomaly")
    ]
    trains = [("source", "train", "normal", options.train_source), ("target", "train", "normal", options.train_target)]
    shown = machine not in options.without_attributes
    for domain, split, label, count in trains + tests:
        conditions = MACHINES[machine].source if domain == "source" else MACHINES[machine].target
        for index in range(count):
            yield ClipPlan(machine, domain, split, label, index, conditions[index % len(conditions)], shown)


def render_clip(clip: ClipPlan, options: FactoryOptions) -> tuple[NDArray[np.int16], ClipTruth]:
    """Make one clip, int16 (T,), and its truth.

    Noise, ratio and gain have streams of their own and never see the label: only the fault tells normal from anomaly.
    """
    key = (clip.machine, clip.domain, clip.split, clip.label, clip.index)
    fault_rng, machine_rng, room_rng = (generator(options.seed, *key, part) for part in ("fault", "machine", "room"))
    machine, samples = MACHINES[clip.machine], round(options.seconds * SAMPLE_RATE)
    fault = draw_fault(machine.faults, options.fault_strength, fault_rng) if clip.label == "anomaly" else HEALTHY
    snr_db = options.snr_db + room_rng.uniform(-SNR_SPREAD_DB, SNR_SPREAD_DB)
    sound_T = machine.render(clip.condition, fault, samples, machine_rng)
    mixed_T = mix_at_snr(sound_T, room_noise(clip.machine, clip.domain, samples, room_rng), snr_db)
    mixed_T = place_microphone(mixed_T, room_rng)
    level = LEVEL * 10 ** (room_rng.uniform(-GAIN_SPREAD_DB, GAIN_SPREAD_DB) / 20)
    truth = ClipTruth(clip.path, clip.true_attribute, round(snr_db, 3), fault.kind, round(fault.strength, 3))
    return to_int16(to_rms(mixed_T, level)), truth


def draw_fault(kinds: tuple[str, ...], factor: float, rng: np.random.Generator) -> Fault:
    """Draw what breaks and how badly: mild (1) to strong (3), times the difficulty's factor."""
    return Fault(str(rng.choice(kinds)), factor * float(rng.uniform(1.0, 3.0)))


def room_noise(machine: str, domain: str, samples: int, rng: np.random.Generator) -> Wave:
    """The rest of the factory (T,), RMS 1: background of the domain's hall, and one or two machines of other types."""
    slope, mains_hz, low_hz = (-4.0, 50.0, 60.0) if domain == "source" else (-5.5, 60.0, 40.0)
    wave_T = noise(rng, samples, low_hz, 7800, slope + rng.uniform(-1.5, 1.5))
    wave_T += 10 ** (rng.uniform(-14, -6) / 20) * harmonics(
        2 * np.pi * mains_hz * seconds_axis(samples), [1, 0.6, 0.3], rng
    )
    low, high = np.sort(rng.uniform(300, 7000, 2))
    wave_T += 10 ** (rng.uniform(-18, -6) / 20) * noise(rng, samples, low, high + 600)
    others = [name for name in MACHINES if name != machine]
    for name in rng.choice(others, rng.integers(1, 3), replace=False):
        other = MACHINES[str(name)]
        neighbour_T = other.render(other.any_condition(rng), HEALTHY, samples, rng)
        wave_T += 10 ** (rng.uniform(-14, -5) / 20) * neighbour_T
    return to_rms(wave_T)


def place_microphone(wave_T: Wave, rng: np.random.Generator) -> Wave:
    """Colour a clip as a microphone's place in a hall does: a smooth random response of ± `RESPONSE_DB`, (T,) -> (T,).

    It is why mean spectra alone say little: fine structure and rhythm pass it unchanged.
    """
    size = fft.next_fast_len(len(wave_T), real=True)
    octave_F = np.log2(np.maximum(fft.rfftfreq(size, 1 / SAMPLE_RATE), 30) / 30)
    knots = np.arange(0, 8.5, 1 / 3)  # every third of an octave
    response_db_F = np.interp(octave_F, knots, rng.uniform(-RESPONSE_DB, RESPONSE_DB, len(knots)))
    placed_T: Wave = fft.irfft(fft.rfft(wave_T, size) * 10 ** (response_db_F / 20), size)[: len(wave_T)]
    return placed_T


def to_int16(wave_T: Wave) -> NDArray[np.int16]:
    """Round to 16-bit samples; full scale is ± 1, and what exceeds it is clipped."""
    return np.round(np.clip(wave_T, -1, 1) * 32767).astype(np.int16)
