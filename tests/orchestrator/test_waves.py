"""Batches cut from flat arrays: tiled, cropped, and never out of another clip."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.data.packing import pack
from orchestrator.data.waves import FULL_SCALE, WaveBank

CLIPS = [np.arange(5, dtype=np.int16), np.arange(100, 112, dtype=np.int16), np.arange(-7, 0, dtype=np.int16)]


def bank() -> WaveBank:
    return WaveBank([pack(CLIPS[:2]), pack(CLIPS[2:])])


def as_int16(wave: torch.Tensor) -> list[list[int]]:
    return (wave * FULL_SCALE).round().int().tolist()


def test_short_clips_are_tiled_from_their_start_and_long_ones_cropped() -> None:
    wave = bank().cut(torch.tensor([0, 1, 2]), 8)
    assert as_int16(wave) == [
        [0, 1, 2, 3, 4, 0, 1, 2],
        list(range(100, 108)),
        [-7, -6, -5, -4, -3, -2, -1, -7],
    ]
    assert wave.dtype == torch.float32


def test_a_crop_starts_where_it_is_told() -> None:
    for position, first in ((0.0, 100), (0.5, 102), (0.999, 104), (1.0, 104)):
        assert as_int16(bank().cut(torch.tensor([1]), 8, torch.tensor([position])))[0][0] == first


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(1, 40), st.floats(0, 1), st.integers(0, 99))
def test_every_sample_comes_from_its_own_clip(lengths: list[int], samples: int, position: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    clips = [np.full(n, i, np.int16) for i, n in enumerate(lengths)]
    cut_at = int(random.integers(0, len(clips) + 1))
    made = WaveBank([pack(clips[:cut_at]), pack(clips[cut_at:])])
    rows = torch.from_numpy(random.integers(0, len(clips), 4))
    wave = made.cut(rows, samples, torch.full((4,), position))
    assert as_int16(wave) == [[int(row)] * samples for row in rows]


def test_the_arrays_are_not_copied() -> None:
    part = pack(CLIPS)
    assert np.shares_memory(WaveBank([part]).samples[0], part.samples)
