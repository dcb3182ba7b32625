"""Made-up external audio in the shape of AudioSet's public copies: Parquet shards, a segments CSV, a class list.

Some classes sound like the factory's machines (same physics, other parameters), some are on the list of candidate
classes and unlike them, some are not on the list at all.
"""

import base64
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.signal import resample_poly

from orchestrator.data.synth.catalogue import MACHINES
from orchestrator.data.synth.clips import room_noise
from orchestrator.data.synth.faults import encode
from orchestrator.data.synth.options import FactoryOptions
from orchestrator.data.synth.rotating import HEALTHY
from orchestrator.data.synth.signals import (
    SAMPLE_RATE,
    Wave,
    generator,
    harmonics,
    mix_at_snr,
    noise,
    roll_off,
    seconds_axis,
    shaft_angle,
    to_rms,
)

FOLDER, ROWS_A_SHARD = "external", 40
SCHEMA = pa.schema(
    [
        ("video_id", pa.string()),
        ("audio", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("labels", pa.list_(pa.string())),
        ("human_labels", pa.list_(pa.string())),
    ]
)


@dataclass(frozen=True)
class SoundClass:
    """One AudioSet class (index and mid are AudioSet's own) and what imitates it: a machine or a plain sound."""

    index: int
    mid: str
    display_name: str
    sound: str


CLASSES = (
    SoundClass(412, "/m/02x984l", "Mechanical fan", "fan"),
    SoundClass(409, "/m/0l7xg", "Gears", "gearbox"),
    SoundClass(343, "/m/02mk9", "Engine", "ToyCar"),
    SoundClass(357, "/m/02y_763", "Sliding door", "slider"),
    SoundClass(413, "/m/025wky1", "Air conditioning", "fan"),
    SoundClass(415, "/m/01m4t", "Printer", "valve"),
    SoundClass(348, "/t/dd00066", "Medium engine (mid frequency)", "rumble"),
    SoundClass(421, "/m/01b82r", "Sawing", "strokes"),
    SoundClass(0, "/m/09x0r", "Speech", "speech"),
    SoundClass(137, "/m/04rlf", "Music", "music"),
    SoundClass(520, "/m/0chx_", "White noise", "white"),
    SoundClass(521, "/m/0cj0r", "Pink noise", "pink"),
)


@dataclass(frozen=True)
class Candidate:
    """One external clip before it is encoded: `seconds` long, of one or two classes, in some container and rate."""

    number: int
    video_id: str
    classes: tuple[SoundClass, ...]
    seconds: float
    rate: int
    channels: int
    container: str


def external_files(options: FactoryOptions) -> list[str]:
    """Relative paths of the external files; none when no external clip is asked for."""
    if not options.external:
        return []
    return [f"{FOLDER}/{name}" for name in (*shard_names(options.external), "segments.csv", "class_labels_indices.csv")]


def shard_names(clips: int) -> list[str]:
    """Names of the Parquet shards, as `synth-00000-of-00003.parquet`."""
    count = -(-clips // ROWS_A_SHARD)
    return [f"synth-{i:05d}-of-{count:05d}.parquet" for i in range(count)]


def plan_external(options: FactoryOptions) -> list[Candidate]:
    """Draw class, length, rate, channels and container of every external clip; classes come in turn."""
    return [_plan_one(options.seed, number) for number in range(options.external)]


def _plan_one(seed: int, number: int) -> Candidate:
    rng = generator(seed, "external plan", number)
    first, second = CLASSES[number % len(CLASSES)], CLASSES[rng.integers(len(CLASSES))]
    classes = (first, second) if second != first and rng.random() < 0.15 else (first,)
    digest = hashlib.sha256(f"{seed}/{number}".encode()).digest()
    video_id = base64.urlsafe_b64encode(digest)[:11].decode()  # YouTube ids have eleven such letters
    rate, channels = int(rng.choice([16_000, 22_050, 44_100])), int(rng.choice([1, 2]))
    return Candidate(
        number, video_id, classes, round(rng.uniform(2, 10), 3), rate, channels, str(rng.choice(["wav", "flac"]))
    )


def write_external(folder: Path, options: FactoryOptions, progress: Callable[[int, int], None]) -> None:
    """Write shards, segments and classes below `folder`/external; nothing when no clip is asked for."""
    if not options.external:
        return
    place, clips = folder / FOLDER, plan_external(options)
    place.mkdir(exist_ok=True)
    for shard, name in enumerate(shard_names(len(clips))):
        rows = []
        for clip in clips[shard * ROWS_A_SHARD : (shard + 1) * ROWS_A_SHARD]:
            rows.append(_row(clip, options.seed))
            progress(clip.number + 1, len(clips))
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), place / name)
    (place / "segments.csv").write_text("".join(_segments(clips)), encoding="utf-8")
    (place / "class_labels_indices.csv").write_text("".join(_class_list()), encoding="utf-8")


def _class_list() -> Iterator[str]:
    """Lines of AudioSet's class list, which quotes every name."""
    yield "index,mid,display_name\n"
    for c in sorted(CLASSES, key=lambda c: c.index):
        yield f'{c.index},{c.mid},"{c.display_name}"\n'


def _segments(clips: list[Candidate]) -> Iterator[str]:
    """Lines of AudioSet's segments CSV: three comment lines, then id, start, end, quoted mids."""
    used = [c.mid for clip in clips for c in clip.classes]
    yield "# Segments csv of a made-up factory\n"
    yield f"# num_ytids={len(clips)}, num_segs={len(clips)}, num_unique_labels={len(set(used))}, "
    yield f"num_positive_labels={len(used)}\n# YTID, start_seconds, end_seconds, positive_labels\n"
    for clip in clips:
        yield f'{clip.video_id}, 0.000, {clip.seconds:.3f}, "{",".join(c.mid for c in clip.classes)}"\n'


def _row(clip: Candidate, seed: int) -> dict[str, Any]:
    wave = render_candidate(clip, generator(seed, "external", clip.number))
    return {
        "video_id": clip.video_id,
        "audio": {"bytes": encode(wave, clip.rate, container=clip.container.upper()), "path": _path(clip)},
        "labels": [c.mid for c in clip.classes],
        "human_labels": [c.display_name for c in clip.classes],
    }


def _path(clip: Candidate) -> str:
    return f"{clip.video_id}.{clip.container}"


def render_candidate(clip: Candidate, rng: np.random.Generator) -> Wave:
    """Make the sound of a candidate at its own rate, (T,) or (T, 2)."""
    samples = round(clip.seconds * SAMPLE_RATE)
    wave_T = np.sum([imitate(c.sound, samples, rng) for c in clip.classes], axis=0)
    wave_T = mix_at_snr(wave_T, room_noise("", "source", samples, rng), rng.uniform(0, 15))
    level = 0.05 * 10 ** (rng.uniform(-6, 6) / 20)
    divisor = int(np.gcd(clip.rate, SAMPLE_RATE))
    wave_T = to_rms(resample_poly(wave_T, clip.rate // divisor, SAMPLE_RATE // divisor), level)
    return wave_T if clip.channels == 1 else np.stack([wave_T, 0.8 * np.roll(wave_T, 9)], axis=1)


def imitate(sound: str, samples: int, rng: np.random.Generator) -> Wave:
    """Make one sound (T,), RMS 1: a factory machine under a condition of its own, or a plain imitation."""
    if sound in MACHINES:
        return MACHINES[sound].render(MACHINES[sound].any_condition(rng), HEALTHY, samples, rng)
    time_T = seconds_axis(samples)
    if sound == "rumble":  # firing orders of a piston engine
        return to_rms(harmonics(shaft_angle(rng.uniform(20, 60), samples, rng), roll_off(20, 0.8), rng))
    if sound == "strokes":  # a saw: noise that swells twice a second
        return to_rms(noise(rng, samples, 800, 6000) * np.abs(np.sin(np.pi * rng.uniform(1.5, 3) * time_T)))
    if sound == "speech":  # a gliding voice, four syllables a second
        pitch_hz = rng.uniform(90, 220) * (1 + 0.15 * np.sin(2 * np.pi * 0.7 * time_T))
        voice_T = harmonics(shaft_angle(pitch_hz, samples, rng), roll_off(25, 0.9), rng)
        return to_rms(voice_T * np.clip(np.sin(2 * np.pi * 2 * time_T), 0, 1))
    if sound == "music":  # chords of equal temperament, two a second
        step_T = rng.choice([0, 3, 5, 7, 10, 12], int(2 * samples / SAMPLE_RATE) + 1)[(2 * time_T).astype(int)]
        root_T = 2 * np.pi * np.cumsum(220 * 2 ** (step_T / 12)) / SAMPLE_RATE
        return to_rms(sum(harmonics(root_T * 2 ** (n / 12), roll_off(5, 1.2), rng) for n in (0, 4, 7)))  # type: ignore[arg-type]
    return noise(rng, samples, 30, 8000, 0.0 if sound == "white" else -3.0)
