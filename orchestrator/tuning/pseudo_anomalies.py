"""Sounds that nobody recorded: a machine's own training clips with another machine's sound mixed in.

Shapes: A training clips, B clips of a batch, T samples.
"""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from orchestrator.data.clips import by_place
from orchestrator.data.waves import WaveBank

SILENCE = 1e-8  # mean square below which a clip is taken for silent


class Pairs(NamedTuple):
    """For each training clip a clip of another machine."""

    rows_A: NDArray[np.int64]  # training clips, rows of the bank
    others_A: NDArray[np.int64]  # rows of the bank


def draw_pairs(clips: pa.Table, seed: int = 0) -> Pairs:
    """A random training clip of another machine for every training clip; ValueError where there is one machine only."""
    split, machine = (clips[name].to_numpy(zero_copy_only=False) for name in ("split", "machine"))
    rows_A = np.flatnonzero(split == "train")
    random, others_A = np.random.default_rng(seed), np.empty(len(rows_A), np.int64)
    for own in sorted(set(machine[rows_A].tolist())):
        mine = machine[rows_A] == own
        if mine.all():
            raise ValueError(f"{own} is the only machine")
        others_A[mine] = random.choice(rows_A[~mine], int(mine.sum()))
    return Pairs(rows_A, others_A)


class BlendBank:
    """Reads like a bank of waveforms: row a is training clip a with its partner's sound added at `snr_db`."""

    def __init__(self, bank: WaveBank, pairs: Pairs, snr_db: float) -> None:
        self.bank, self.device = bank, bank.device
        self.rows_A, self.others_A = (torch.from_numpy(rows) for rows in pairs)
        self.gain = 10 ** (-snr_db / 20)

    def __len__(self) -> int:
        return len(self.rows_A)

    def cut(self, rows: Tensor, clip_samples: int, position: Tensor | None = None) -> Tensor:
        """Blends of exactly `clip_samples`: rows int64 (B,) -> float32 (B, T)."""
        own_BT = self.bank.cut(self.rows_A[rows], clip_samples, position)
        other_BT = self.bank.cut(self.others_A[rows], clip_samples, position)
        own_B, other_B = (wave.square().mean(dim=1).clamp_min(SILENCE).sqrt() for wave in (own_BT, other_BT))
        return own_BT + other_BT * (self.gain * own_B / other_B)[:, None]


def folds(clips: pa.Table, rows: NDArray[np.int64], number: int, seed: int = 0) -> NDArray[np.int64]:
    """Which of `number` folds each training clip of one place is in, both domains spread evenly: (len(rows),)."""
    domain = clips["domain"].to_numpy(zero_copy_only=False)[rows]
    order = np.random.default_rng(seed).permutation(len(rows))
    order = order[np.argsort(domain[order] == "target", kind="stable")]
    fold = np.empty(len(rows), np.int64)
    fold[order] = np.arange(len(rows)) % number
    return fold


def train_places(clips: pa.Table) -> dict[tuple[str, str], NDArray[np.int64]]:
    """The training clips of each machine and section, as rows of `clips`."""
    train = clips["split"].to_numpy(zero_copy_only=False) == "train"
    return {place: rows[train[rows]] for place, rows in by_place(clips).items()}
