"""The most and the least anomalous test clips of a row, to look at and to listen to.

Shapes: T samples, F mel bands, N frames.
"""

import base64
import hashlib
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from orchestrator.data.audio import SAMPLE_RATE, BadClip, decode
from orchestrator.data.clips import by_place
from orchestrator.errors import StorageError
from orchestrator.report.contents import Contents, SystemRow, clips_of
from orchestrator.storage import read_file

MOST_SECONDS = 12.0  # of a clip that are kept; DCASE's have at most 12
BUDGET_BYTES = 5_000_000  # of all sounds and pictures together, as they stand in the page
MEL_BANDS, FRAMES, N_FFT = 64, 220, 1024
DARKEST = 5.0  # percentile of a clip's log-mel energies that is drawn black
COLOUR_MAP = "magma"


class Sound(NamedTuple):
    """A test clip: its place in the machine's order of scores, what is known of it, and how it looks and sounds."""

    rank: int  # 1 is the most anomalous
    file_name: str
    score: float
    decided: bool
    anomaly: bool | None
    domain: str
    seconds: float
    note: str  # why there is no sound, or what is different about it
    picture: str  # data: URIs, empty where there is none
    audio: str

    @property
    def right(self) -> bool | None:
        return None if self.anomaly is None else self.anomaly == self.decided


class Shelf(NamedTuple):
    """One machine's sounds, the most anomalous first."""

    machine: str
    clips: int
    most: list[Sound]
    least: list[Sound]


def shelves(contents: Contents, row: SystemRow, count: int, budget: int = BUDGET_BYTES) -> tuple[list[Shelf], int]:
    """The `count` highest and lowest scores of every machine, and how many sounds did not fit into the page.

    The extreme clips of all machines come first, so that a small budget leaves each machine something.
    """
    clips, found = clips_of(contents, row), dict[tuple[tuple[str, str], int], Sound]()
    picks = {
        place: _picks(row.test.take(rows)["score"].to_numpy(), count) for place, rows in by_place(row.test).items()
    }
    places, left, refused = by_place(row.test), budget, 0
    for turn in range(max((len(most) for most, _ in picks.values()), default=0)):
        for place, (most, least) in picks.items():
            for at in (*most[turn : turn + 1], *least[turn : turn + 1]):
                index = int(places[place][at[1]])
                sound = _sound(at[0], row.test.slice(index, 1).to_pylist()[0], clips.slice(index, 1).to_pylist()[0])
                size = len(sound.audio) + len(sound.picture)
                if size > left:
                    sound, size, refused = sound._replace(audio="", picture="", note="left out"), 0, refused + 1
                left -= size
                found[place, at[0]] = sound
    return [
        Shelf(
            contents.place(place),
            len(places[place]),
            [found[place, rank] for rank, _ in most],
            [found[place, rank] for rank, _ in least],
        )
        for place, (most, least) in picks.items()
    ], refused


def _picks(score_N: NDArray[np.float64], count: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """(rank from 1, row) of the highest scores and of the lowest, none in both; the lowest last."""
    order = np.argsort(-score_N, kind="stable").tolist()
    ranked = list(enumerate(order, 1))
    most = ranked[: min(count, (len(ranked) + 1) // 2)]
    return most, ranked[len(most) :][::-1][:count]


def _sound(rank: int, scored: dict[str, Any], clip: dict[str, Any]) -> Sound:
    samples, note = _samples(clip)
    picture, audio = ("", "") if samples is None else (spectrogram_png(samples), _encoded(samples))
    if samples is not None and len(samples) > MOST_SECONDS * SAMPLE_RATE:
        note = f"{note} the first {MOST_SECONDS:g} s".strip()
    domain = {True: "target", False: "source", None: "domain unknown"}[scored["is_target"]]
    seconds = clip["samples"] / SAMPLE_RATE
    facts = (rank, scored["file_name"], scored["score"], bool(scored["decision"]), scored["is_anomaly"])
    return Sound(*facts, domain, seconds, note, picture, audio)


def _samples(clip: dict[str, Any]) -> tuple[NDArray[np.int16] | None, str]:
    """The recording as it was scored, or None and the reason."""
    try:
        samples = decode(read_file(clip["path"]), clip["file_name"], 0.0).samples
    except BadClip as error:
        return None, f"cannot be decoded any more: {error.reason}"
    except (OSError, StorageError):
        return None, f"the recording is no longer at {clip['path']}"
    same = hashlib.blake2b(samples.astype("<i2").tobytes(), digest_size=16).hexdigest() == clip["digest"]
    return samples, "" if same else "the recording has changed since it was scored"


def log_mel(samples: NDArray[np.int16]) -> NDArray[np.float32]:
    """Log-mel energies in dB (F, N), low bands first, of up to MOST_SECONDS."""
    import torch
    from torchaudio.transforms import MelSpectrogram

    wave_T = torch.from_numpy(samples[: int(MOST_SECONDS * SAMPLE_RATE)].astype(np.float32) / 32768)
    if len(wave_T) < N_FFT:
        wave_T = torch.nn.functional.pad(wave_T, (0, N_FFT - len(wave_T)))
    hop = max(64, len(wave_T) // FRAMES)
    mel = MelSpectrogram(SAMPLE_RATE, n_fft=N_FFT, hop_length=hop, n_mels=MEL_BANDS)
    decibels: NDArray[np.float32] = (10 * torch.log10(mel(wave_T) + 1e-10)).numpy()
    return decibels


def spectrogram_png(samples: NDArray[np.int16]) -> str:
    """The log-mel spectrogram as a small picture: high frequencies at the top, from DARKEST to the loudest spot."""
    from matplotlib import colormaps
    from PIL import Image

    decibels_FN = log_mel(samples)
    low, high = np.percentile(decibels_FN, DARKEST), decibels_FN.max()
    step_FN = np.clip((decibels_FN - low) / max(high - low, 1e-3), 0, 1) * 255
    image = Image.fromarray(np.round(step_FN[::-1]).astype(np.uint8), mode="P")
    image.putpalette((colormaps[COLOUR_MAP](np.arange(256))[:, :3] * 255).astype(np.uint8).tobytes())
    data = io.BytesIO()
    image.save(data, format="PNG", optimize=True)
    return data_uri("image/png", data.getvalue())


def _encoded(samples: NDArray[np.int16]) -> str:
    """MP3, a tenth of a WAV, which every browser plays; WAV where the sound library cannot write MP3."""
    import soundfile

    kept, data = samples[: int(MOST_SECONDS * SAMPLE_RATE)], io.BytesIO()
    if "MP3" in soundfile.available_formats():
        soundfile.write(data, kept, SAMPLE_RATE, format="MP3", subtype="MPEG_LAYER_III", compression_level=0.0)
        return data_uri("audio/mpeg", data.getvalue())
    soundfile.write(data, kept, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    return data_uri("audio/wav", data.getvalue())


def data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def lost(found: Sequence[Shelf]) -> list[Sound]:
    """The sounds whose recording is not there any more."""
    return [sound for shelf in found for sound in (*shelf.most, *shelf.least) if not sound.audio]
