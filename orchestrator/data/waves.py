"""Batches cut from decoded recordings."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from orchestrator.data.packing import Part

FULL_SCALE = 32_768.0


class WaveBank:
    """All waveforms of a data set, addressed by row; the arrays are shared, never copied on a CPU.

    On a GPU the int16 samples are uploaded once, where they fit in `resident_share` of its free memory, and batches
    are cut there; else each batch is cut on the CPU and sent from pinned memory.
    """

    def __init__(self, parts: Sequence[Part], device: torch.device | str = "cpu", resident_share: float = 0.5) -> None:
        self.device = torch.device(device)
        self.samples = [part.samples for part in parts]
        self.part_A = np.concatenate([np.full(len(part.offsets) - 1, i) for i, part in enumerate(parts)])
        self.start_A = np.concatenate([part.offsets[:-1] for part in parts])
        self.length_A = np.concatenate([np.diff(part.offsets) for part in parts])
        self.resident: Tensor | None = None
        if self.device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self.device)
            if sum(s.nbytes for s in self.samples) < resident_share * free:
                self.resident = torch.cat([torch.tensor(s, device=self.device) for s in self.samples])
                base = np.cumsum([0, *[len(s) for s in self.samples[:-1]]])
                self.resident_start = torch.tensor(self.start_A + base[self.part_A], device=self.device)
                self.resident_length = torch.tensor(self.length_A, device=self.device)

    def __len__(self) -> int:
        return len(self.length_A)

    def cut(self, rows: Tensor, clip_samples: int, position: Tensor | None = None) -> Tensor:
        """Waveforms of exactly `clip_samples`: rows int64 (B,) -> float32 (B, T) in [-1, 1) on the bank's device.

        Shorter clips are tiled from their start. Longer ones are cropped at `position` (B,) in [0, 1] of the possible
        starts, or from the start.
        """
        if position is None:
            position = torch.zeros(len(rows))
        room_B = np.maximum(self.length_A[rows.numpy()] - clip_samples, 0)
        begin_B = np.minimum((position.numpy() * (room_B + 1)).astype(np.int64), room_B)
        if self.resident is not None:
            rows_gpu = rows.to(self.device)
            time_T = torch.arange(clip_samples, device=self.device)
            offset_BT = torch.from_numpy(begin_B).to(self.device)[:, None] + time_T
            index_BT = self.resident_start[rows_gpu, None] + offset_BT % self.resident_length[rows_gpu, None]
            return self.resident[index_BT].float() / FULL_SCALE
        wave = np.empty((len(rows), clip_samples), np.int16)
        for out, row, begin in zip(wave, rows.tolist(), begin_B.tolist(), strict=True):
            start, length = self.start_A[row], self.length_A[row]
            clip = self.samples[self.part_A[row]][start + begin : start + length]
            out[:] = clip[:clip_samples] if len(clip) >= clip_samples else np.resize(clip, clip_samples)
        batch = torch.from_numpy(wave)
        if self.device.type == "cuda":
            batch = batch.pin_memory().to(self.device, non_blocking=True)
        return batch.float() / FULL_SCALE

    def whole(self, row: int) -> Tensor:
        """One clip at its own length: float32 (samples,) in [-1, 1) on the bank's device."""
        start = self.start_A[row]
        clip = self.samples[self.part_A[row]][start : start + self.length_A[row]]
        return torch.tensor(clip, device=self.device).float() / FULL_SCALE
