"""A small picture of a clip: log-mel energies as bytes, drawn by the page.

Shapes: T samples, N frames, F bands, C columns.
"""

import base64

import numpy as np
import torch
from numpy.typing import NDArray

from models.autoencoder import HOP_SAMPLES, LogMel
from models.branches import SAMPLE_RATE_HZ
from orchestrator.serving.web.schema import Spectrogram

MOST_COLUMNS = 320
RANGE_DB = 70.0  # what is fainter than the loudest by more is black
SECONDS_AT_ONCE = 60


def draw(wave_T: NDArray[np.int16]) -> Spectrogram:
    """The loudest energy of each column and band, between the clip's peak and 70 dB below."""
    mel_NF = _log_mel(wave_T)
    columns = min(MOST_COLUMNS, len(mel_NF))
    edges = np.linspace(0, len(mel_NF), columns, endpoint=False).astype(np.int64)
    loud_CF = np.maximum.reduceat(mel_NF, edges, axis=0)
    high = float(loud_CF.max())
    level_CF = np.clip((loud_CF - high + RANGE_DB) / RANGE_DB, 0, 1)
    data = np.rint(level_CF * 255).astype(np.uint8).T.tobytes()
    return Spectrogram(
        bands=loud_CF.shape[1],
        columns=columns,
        seconds=len(wave_T) / SAMPLE_RATE_HZ,
        low_db=round(high - RANGE_DB, 2),
        high_db=round(high, 2),
        data=base64.b64encode(data).decode(),
    )


def _log_mel(wave_T: NDArray[np.int16]) -> NDArray[np.float32]:
    """Energies in dB (N, F), a minute at a time."""
    feature, step = LogMel(), SECONDS_AT_ONCE * SAMPLE_RATE_HZ // HOP_SAMPLES * HOP_SAMPLES
    parts = [torch.from_numpy(wave_T[start : start + step]) for start in range(0, len(wave_T), step)]
    with torch.inference_mode():
        return np.concatenate([feature(part[None] / 32768.0)[0].numpy() for part in parts])
