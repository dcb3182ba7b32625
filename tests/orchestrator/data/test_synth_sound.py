"""The made-up machines obey their formulas, the mixing its ratio, and a fault of strength 0 is no fault."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.data.synth.catalogue import MACHINES
from orchestrator.data.synth.clips import ClipPlan, draw_fault, render_clip
from orchestrator.data.synth.options import FactoryOptions
from orchestrator.data.synth.rotating import HEALTHY, Fault, bearing_defect_hz, fan_blade_pass_hz
from orchestrator.data.synth.signals import (
    SAMPLE_RATE,
    generator,
    harmonics,
    mix_at_snr,
    noise,
    ring,
    rms,
    roll_off,
    seconds_axis,
    strikes_at,
)
from orchestrator.data.synth.striking import slider_period_s

FOUR_SECONDS = 4 * SAMPLE_RATE


def power_near(wave_T: np.ndarray, hz: float, half_width_hz: float = 3.0) -> float:
    power_F = np.abs(np.fft.rfft(wave_T * np.hanning(len(wave_T)))) ** 2
    frequency_F = np.fft.rfftfreq(len(wave_T), 1 / SAMPLE_RATE)
    return float(power_F[np.abs(frequency_F - hz) < half_width_hz].max())


def test_one_harmonic_is_a_sine_and_ten_are_their_sum():
    angle_T = 2 * np.pi * 100 * seconds_axis(SAMPLE_RATE)
    wave_T = harmonics(angle_T, [1.0, 0.0, 0.5], generator(0, "h"), spread=0.0)
    # 1 s holds 100 turns, so lines fall on bins: amplitude = 2 |X| / N
    amplitude_F = 2 * np.abs(np.fft.rfft(wave_T)) / SAMPLE_RATE
    np.testing.assert_allclose(amplitude_F[[100, 200, 300]], [1.0, 0.0, 0.5], atol=1e-5)
    assert np.isclose(rms(wave_T), np.sqrt(0.5 + 0.125), atol=1e-5)


def test_roll_off_is_a_power_law():
    np.testing.assert_allclose(roll_off(4, 2.0), [1, 1 / 4, 1 / 9, 1 / 16])


@settings(max_examples=25, deadline=None)
@given(snr_db=st.floats(-30, 40), gain=st.floats(0.01, 100), seed=st.integers(0, 10_000))
def test_mixing_keeps_the_signal_and_hits_the_stated_ratio(snr_db: float, gain: float, seed: int):
    rng = generator(seed, "mix")
    signal_T, noise_T = rng.standard_normal(1000), gain * rng.standard_normal(1000)
    added_T = mix_at_snr(signal_T, noise_T, snr_db) - signal_T
    measured_db = 10 * np.log10(np.mean(signal_T**2) / np.mean(added_T**2))
    assert abs(measured_db - snr_db) < 1e-6


def test_mixing_by_hand():
    # signal power 4, 20 dB below is 0.04, so the noise's amplitude is 0.2
    mixed_T = mix_at_snr(np.array([2.0, -2.0]), np.array([5.0, 5.0]), 20.0)
    np.testing.assert_allclose(mixed_T, [2.2, -1.8])


@pytest.mark.parametrize("slope", [-6.0, 0.0, 3.0])
def test_noise_changes_by_so_many_decibels_an_octave(slope: float):
    wave_T = noise(generator(1, "noise"), 8 * SAMPLE_RATE, 100, 7900, slope)
    power_F = np.abs(np.fft.rfft(wave_T)) ** 2
    per_hz = 8  # bins in 1 Hz
    low, high = (power_F[hz * 9 // 10 * per_hz : hz * 11 // 10 * per_hz].mean() for hz in (500, 4000))
    assert abs(10 * np.log10(high / low) - 3 * slope) < 0.7  # three octaves


def test_a_strike_rings_at_its_resonance_and_dies_away():
    wave_T = ring(strikes_at(np.array([0.1, 99.0]), 1.0, SAMPLE_RATE), [(1000.0, 20.0, 1.0)])
    assert np.abs(wave_T[:1600]).max() < 1e-9
    assert np.argmax(np.abs(np.fft.rfft(wave_T))) == pytest.approx(1000, abs=5)
    # amplitude falls by exp(-π f t / Q) = exp(-π) in 20 ms
    first, later = np.abs(wave_T[1600:1616]).max(), np.abs(wave_T[1920:1936]).max()
    assert later / first == pytest.approx(np.exp(-np.pi), rel=0.02)


def test_formulas_by_hand():
    assert fan_blade_pass_hz({"rpm": "1200", "bl": "5"}) == 100.0
    rates_hz = bearing_defect_hz({"vel": "10", "loc": "A"})
    assert rates_hz["outer_race"] == pytest.approx(33.3)  # 4.5 × 10 × 0.74
    assert rates_hz["inner_race"] == pytest.approx(56.7)  # 4.5 × 10 × 1.26
    assert rates_hz["ball"] == pytest.approx((1 - 0.26**2) * 10 / 0.52)
    assert slider_period_s({"vel": "360", "ac": "0.1"}) == pytest.approx(2 * (0.5 + 0.1 + 0.08))


@pytest.mark.parametrize(("rpm", "blades"), [("1080", "5"), ("1500", "7"), ("1680", "4")])
def test_a_fan_has_its_peak_at_the_blade_pass_frequency(rpm: str, blades: str):
    condition = {"rpm": rpm, "bl": blades}
    wave_T = MACHINES["fan"].render(condition, HEALTHY, FOUR_SECONDS, generator(3, "fan", rpm))
    blade_hz, shaft_hz = fan_blade_pass_hz(condition), float(rpm) / 60
    assert power_near(wave_T, blade_hz) > 30 * power_near(wave_T, blade_hz - 1.5 * shaft_hz)


def fine_spectrum(wave_T: np.ndarray) -> np.ndarray:
    """Amplitudes up to 4 kHz in steps of 8 Hz, (500,), of length 1."""
    amplitude_F = np.abs(np.fft.rfft(wave_T)[: 4 * 4000]).reshape(500, 32).mean(1)
    return amplitude_F / np.linalg.norm(amplitude_F)


@pytest.mark.parametrize("name", MACHINES)
def test_every_source_condition_of_a_machine_sounds_like_itself(name: str):
    machine = MACHINES[name]
    first, again = (
        [fine_spectrum(machine.render(c, HEALTHY, FOUR_SECONDS, generator(seed, name))) for c in machine.source]
        for seed in (5, 6)
    )
    likeness = np.array(first) @ np.array(again).T
    assert list(likeness.argmax(axis=1)) == list(range(len(machine.source)))


@pytest.mark.parametrize("name", MACHINES)
def test_target_attributes_never_occur_in_the_source(name: str):
    machine = MACHINES[name]
    assert not [condition for condition in machine.target if condition in machine.source]


CASES = [(name, kind) for name, machine in MACHINES.items() for kind in machine.faults]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_fault_vanishes_with_its_strength_and_grows_with_it(name: str, kind: str):
    machine = MACHINES[name]

    def render(strength: float) -> np.ndarray:
        return machine.render(machine.source[0], Fault(kind, strength), FOUR_SECONDS, generator(7, name))

    healthy_T = machine.render(machine.source[0], HEALTHY, FOUR_SECONDS, generator(7, name))
    np.testing.assert_array_equal(render(0.0), healthy_T)
    change = [rms(render(strength) - healthy_T) for strength in (1e-6, 0.3, 1.0)]
    assert change[0] < 0.02
    assert change[0] < change[1] < change[2]
    assert all(rms(render(strength)) == pytest.approx(1.0) for strength in (0.0, 1.0))


def test_an_unbalanced_fan_shows_its_shaft_rate():
    condition = {"rpm": "1500", "bl": "7"}
    healthy_T, broken_T = (
        MACHINES["fan"].render(condition, Fault("unbalance", s), FOUR_SECONDS, generator(8, "fan")) for s in (0.0, 1.0)
    )
    assert power_near(broken_T, 25.0) > 2 * power_near(healthy_T, 25.0)
    assert power_near(broken_T, 7 * 25.0 + 25.0) > 4 * power_near(healthy_T, 7 * 25.0 + 25.0)


def test_fault_strengths_are_graded_and_scaled():
    strengths = np.array([draw_fault(("leak",), 2.0, generator(i, "fault")).strength for i in range(300)])
    assert strengths.min() >= 2.0
    assert strengths.max() <= 6.0
    assert abs(strengths.mean() - 4.0) < 0.2


def test_clips_differ_in_the_fault_alone():
    options = FactoryOptions(seconds=1.0)
    plan = ClipPlan("fan", "source", "test", "anomaly", 0, MACHINES["fan"].source[0], True)
    weak_T, weak = render_clip(plan, FactoryOptions(seconds=1.0, fault_strength=1e-9))
    strong_T, strong = render_clip(plan, options)
    assert weak.snr_db == strong.snr_db
    assert weak.fault == strong.fault != "none"
    assert not np.array_equal(weak_T, strong_T)
    assert rms(weak_T / 32768) == pytest.approx(rms(strong_T / 32768), rel=1e-3)


@pytest.mark.parametrize("domain", ["source", "target"])
def test_a_clips_level_and_ratio_have_one_distribution_for_both_labels(domain: str):
    options = FactoryOptions(seconds=1.0)
    condition = MACHINES["valve"].source[0]
    drawn = {
        label: [render_clip(ClipPlan("valve", domain, "test", label, i, condition, True), options) for i in range(25)]
        for label in ("normal", "anomaly")
    }
    level_db = {k: np.mean([20 * np.log10(rms(w / 32768)) for w, _ in v]) for k, v in drawn.items()}
    assert abs(level_db["normal"] - level_db["anomaly"]) < 2.0  # each mean is known to about 0.5 dB
    assert all(3.0 <= truth.snr_db <= 9.0 for v in drawn.values() for _, truth in v)
