"""A recording to try a served model with; no training clip leaves the study."""

import io

import numpy as np
import soundfile

from orchestrator.data.audio import SAMPLE_RATE

SECONDS = 1.0


def example_bytes() -> bytes:
    """A WAV file: a second of hum and noise, always the same."""
    time_T = np.arange(int(SECONDS * SAMPLE_RATE)) / SAMPLE_RATE
    noise_T = np.random.default_rng(0).normal(0.0, 0.02, len(time_T))
    buffer = io.BytesIO()
    wave_T = 0.1 * np.sin(2 * np.pi * 120.0 * time_T) + noise_T
    soundfile.write(buffer, wave_T, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    return buffer.getvalue()
