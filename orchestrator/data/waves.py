"""Batches cut from decoded recordings."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from orchestrator.data.ahead import FULL_SCALE, Batch, Gpu, Lane
from orchestrator.data.packing import Part
from orchestrator.devices import sent


class WaveBank:
    """All waveforms of a data set, addressed by row; the arrays are shared, never copied on a CPU.

    On a GPU the int16 samples are uploaded once, where they fit in `resident_share` of its free memory, and batches
    are cut there; else each batch is cut on the CPU and sent from pinned memory, by `stream` one ahead.
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
        if self.resident is not None:
            begin_B = torch.from_numpy(self._begins(rows, position, clip_samples))
            rows_gpu, begin_gpu = sent(rows, self.device), sent(begin_B, self.device)
            offset_BT = begin_gpu[:, None] + torch.arange(clip_samples, device=self.device)
            index_BT = self.resident_start[rows_gpu, None] + offset_BT % self.resident_length[rows_gpu, None]
            return self.resident[index_BT].float() / FULL_SCALE
        wave_BT = np.empty((len(rows), clip_samples), np.int16)
        self._cut_into(wave_BT, rows, position)
        return sent(torch.from_numpy(wave_BT), self.device).float() / FULL_SCALE

    def stream(self, wanted: Iterable[Batch], clip_samples: int, most: int) -> Iterator[tuple[Batch, Tensor]]:
        """Each wanted batch, of `most` clips at most, with its waveforms as `cut` gives them.

        Where they are cut on the CPU for a GPU, the next batch is cut and copied while the GPU has this one.
        """
        if self.device.type == "cuda" and self.resident is None:
            lane = Lane(most, clip_samples, Gpu.of(self.device))
            yield from lane.deliver(wanted, lambda one, wave_BT: self._cut_into(wave_BT, one.rows_B, one.position_B))
            return
        for one in wanted:
            yield one, self.cut(one.rows_B, clip_samples, one.position_B)

    def _begins(self, rows: Tensor, position: Tensor, clip_samples: int) -> NDArray[np.int64]:
        room_B = np.maximum(self.length_A[rows.numpy()] - clip_samples, 0)
        return np.minimum((position.numpy() * (room_B + 1)).astype(np.int64), room_B)

    def _cut_into(self, wave_BT: NDArray[np.int16], rows: Tensor, position: Tensor) -> None:
        clip_samples = wave_BT.shape[1]
        begin_B = self._begins(rows, position, clip_samples)
        for out, row, begin in zip(wave_BT, rows.tolist(), begin_B.tolist(), strict=True):
            start, length = self.start_A[row], self.length_A[row]
            clip = self.samples[self.part_A[row]][start + begin : start + length]
            out[:] = clip[:clip_samples] if len(clip) >= clip_samples else np.resize(clip, clip_samples)

    def whole(self, row: int) -> Tensor:
        """One clip at its own length: float32 (samples,) in [-1, 1) on the bank's device."""
        start = self.start_A[row]
        clip = self.samples[self.part_A[row]][start : start + self.length_A[row]]
        return torch.tensor(clip, device=self.device).float() / FULL_SCALE
