"""The building blocks of every made-up sound: shaft angles, harmonics, coloured noise, ringing structures, mixing.

Arrays are float64 of shape (T,): T samples at `SAMPLE_RATE`. Random draws come from the generator that is passed in.
"""

from collections.abc import Sequence
from functools import lru_cache
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from scipy import fft

SAMPLE_RATE = 16_000
Wave = NDArray[np.float64]


def generator(seed: int, *names: str | int) -> np.random.Generator:
    """Give one thing of the factory its own random stream, the same on every machine and in every order of work."""
    words = [name if isinstance(name, int) else crc32(name.encode()) for name in names]
    return np.random.default_rng(np.random.SeedSequence([seed, *words]))


def seconds_axis(samples: int) -> Wave:
    """Time of each sample, s."""
    return np.arange(samples) / SAMPLE_RATE


def shaft_angle(rate_hz: float | Wave, samples: int, rng: np.random.Generator, tolerance: float = 0.004) -> Wave:
    """Turn a shaft at `rate_hz` (a number or one value a sample) and return its angle, rad, from a random start.

    The mean speed is off by up to ± `tolerance` and wanders slowly by a quarter of that, as real drives do under load.
    """
    wander_hz, start, wander_start = rng.uniform(0.2, 0.8), *rng.uniform(0, 2 * np.pi, 2)
    drift_T = 0.25 * tolerance * np.sin(2 * np.pi * wander_hz * seconds_axis(samples) + wander_start)
    speed_T = rate_hz * (1 + rng.uniform(-tolerance, tolerance) + drift_T)
    angle_T: Wave = start + 2 * np.pi * np.cumsum(speed_T) / SAMPLE_RATE
    return angle_T


def harmonics(angle_T: Wave, amplitudes: Sequence[float] | Wave, rng: np.random.Generator, spread: float = 2.0) -> Wave:
    """Sum sin(k · angle + random phase) over k = 1, 2, … with the given amplitudes, each off by up to ± `spread` dB."""
    decibel_K = rng.uniform(-spread, spread, len(amplitudes))
    phasor_K = np.asarray(amplitudes) * 10 ** (decibel_K / 20) * np.exp(1j * rng.uniform(0, 2 * np.pi, len(amplitudes)))
    short_T = (angle_T % (2 * np.pi)).astype(np.float32)  # single precision is twice as fast and far below 16 bits
    turn_T = np.empty(len(angle_T), np.complex64)
    turn_T.real, turn_T.imag = np.cos(short_T), np.sin(short_T)
    total_T = np.zeros_like(turn_T)
    for phasor in phasor_K[::-1].astype(np.complex64):  # Horner's rule spares a sine for each harmonic
        total_T += phasor
        total_T *= turn_T
    return total_T.imag.astype(np.float64)


def roll_off(count: int, power: float = 1.0) -> Wave:
    """Amplitudes 1, 2^-power, 3^-power … of a harmonic series."""
    return np.arange(1, count + 1, dtype=float) ** -power


def noise(rng: np.random.Generator, samples: int, low_hz: float, high_hz: float, db_per_octave: float = 0.0) -> Wave:
    """Make Gaussian noise of RMS 1 between two frequencies whose power changes by `db_per_octave`."""
    size = fft.next_fast_len(samples, real=True)
    frequency_F = fft.rfftfreq(size, 1 / SAMPLE_RATE)
    inside_F = (frequency_F >= low_hz) & (frequency_F <= min(high_hz, SAMPLE_RATE / 2))
    # 6.02 dB an octave is a power law of exponent 1 in amplitude
    shape_F = inside_F * np.maximum(frequency_F, 20.0) ** (db_per_octave / 6.0206)
    spectrum_F = shape_F * rng.standard_normal(2 * len(shape_F)).view(complex)
    return to_rms(fft.irfft(spectrum_F, size)[:samples])


def ring(strikes_T: Wave, resonances: Sequence[tuple[float, float, float]]) -> Wave:
    """Strike a structure: convolve with Σ gain · exp(−π f t / Q) · sin(2π f t) over resonances (f in Hz, Q, gain)."""
    response_T = _response(tuple(resonances))
    size = fft.next_fast_len(len(strikes_T) + len(response_T), real=True)
    rung_T: Wave = fft.irfft(fft.rfft(strikes_T, size) * fft.rfft(response_T, size), size)[: len(strikes_T)]
    return rung_T


@lru_cache(maxsize=256)
def _response(resonances: tuple[tuple[float, float, float], ...]) -> Wave:
    time_T = seconds_axis(SAMPLE_RATE // 8)
    parts = (g * np.exp(-np.pi * f / q * time_T) * np.sin(2 * np.pi * f * time_T) for f, q, g in resonances)
    response_T: Wave = np.sum(list(parts), axis=0)
    return response_T


def strikes_at(times_s: Wave, heights: Wave | float, samples: int) -> Wave:
    """Put one impulse of the given height at each time, s; those outside the clip are left out."""
    strikes_T = np.zeros(samples)
    position = np.round(np.asarray(times_s) * SAMPLE_RATE).astype(int)
    inside = (position >= 0) & (position < samples)
    np.add.at(strikes_T, position[inside], np.broadcast_to(heights, position.shape)[inside])
    return strikes_T


def once_a_turn(angle_T: Wave, heights: float = 1.0) -> Wave:
    """Put one impulse where the shaft passes a whole turn."""
    turns_T = np.floor(angle_T / (2 * np.pi))
    return heights * np.diff(turns_T, prepend=turns_T[0])


def rms(wave_T: Wave) -> float:
    """Root mean square of a wave."""
    return float(np.sqrt(np.mean(np.square(wave_T))))


def to_rms(wave_T: Wave, level: float = 1.0) -> Wave:
    """Scale a wave to the given RMS; silence stays silence."""
    return wave_T * (level / max(rms(wave_T), 1e-12))


def mix_at_snr(signal_T: Wave, noise_T: Wave, snr_db: float) -> Wave:
    """Add noise so that 10 log10(signal power / noise power) = `snr_db`; the signal itself is not scaled."""
    return signal_T + to_rms(noise_T, rms(signal_T) * 10 ** (-snr_db / 20))
