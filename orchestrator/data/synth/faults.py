"""Broken files of the kinds that real collections hold, planted on demand to try the checks of `asd scan`."""

import io
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soundfile as sf
from scipy.io import wavfile
from scipy.signal import resample_poly

from orchestrator.data.synth.clips import ClipPlan, plan_clips, render_clip
from orchestrator.data.synth.options import FactoryOptions
from orchestrator.data.synth.signals import SAMPLE_RATE

KINDS = ("zero_byte", "truncated", "nan", "silent", "rate_44100", "stereo", "text")
FIRST_INDEX = 9000  # far behind the sound clips, so that planting changes none of them


@dataclass(frozen=True)
class PlantedFault:
    """One broken file: the clip that it pretends to be, and what is wrong with it."""

    clip: ClipPlan
    kind: str


def plan_faults(options: FactoryOptions) -> list[PlantedFault]:
    """One broken file of each kind among the source training clips, machines in turn; none unless asked for."""
    if not options.plant_faults:
        return []
    firsts = [next(c for c in plan_clips(options) if c.machine == machine) for machine in options.machines]
    return [PlantedFault(replace(firsts[i % len(firsts)], index=FIRST_INDEX + i), kind) for i, kind in enumerate(KINDS)]


def write_fault(path: Path, fault: PlantedFault, options: FactoryOptions) -> None:
    """Write one broken file."""
    wave_T = render_clip(fault.clip, options)[0] / 32768
    path.write_bytes(broken_bytes(fault.kind, wave_T))


def broken_bytes(kind: str, wave_T: np.ndarray) -> bytes:
    """Bytes of a sound (T,) broken in one way: `rate_44100` and `stereo` can still be used, the others cannot."""
    if kind == "zero_byte":
        return b""
    if kind == "text":
        return b"This is not a recording.\n"
    if kind == "truncated":
        whole = encode(wave_T)
        return whole[: len(whole) // 20]  # the header still promises all of it
    if kind == "nan":
        holed_T = wave_T.copy()
        holed_T[len(holed_T) // 2 :][:100] = np.nan
        buffer = io.BytesIO()
        wavfile.write(buffer, SAMPLE_RATE, holed_T.astype(np.float32))  # soundfile would write the time of day into it
        return buffer.getvalue()
    if kind == "rate_44100":
        return encode(resample_poly(wave_T, 441, 160), rate=44_100)
    sounds = {"silent": 0 * wave_T, "stereo": np.stack([wave_T, 0.3 * np.roll(wave_T, 5)], axis=1)}
    return encode(sounds[kind])


def encode(wave: np.ndarray, rate: int = SAMPLE_RATE, container: str = "WAV") -> bytes:
    """Encode a sound (T,) or (T, channels) in memory, 16 bits a sample."""
    buffer = io.BytesIO()
    sf.write(buffer, wave, rate, subtype="PCM_16", format=container)
    return buffer.getvalue()
