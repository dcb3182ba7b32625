"""Resize: a spectrogram stretched or shrunk, as if it were another machine (paper eq. 15, spec §6).

Shapes: B clips, F frequency bins, N frames.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as fn

SHRINK, STRETCH = (0.5, 0.8), (1.2, 1.5)  # half-open ranges of the factor
Axes = Literal["both", "time", "frequency"]


class Resize(NamedTuple):
    """The factors of each clip; 1 leaves an axis as it is."""

    frequency_B: Tensor
    time_B: Tensor


def draw_resize(clips: int, generator: torch.Generator, axes: Axes = "both") -> Resize:
    """Draw one factor a clip from [0.5, 0.8) or [1.2, 1.5), with equal chance, for the axes asked for."""
    ranges_2 = torch.tensor([SHRINK, STRETCH])[torch.randint(2, (clips,), generator=generator)]
    low_B, high_B = ranges_2.unbind(dim=1)
    factor_B = low_B + (high_B - low_B) * torch.rand(clips, generator=generator)
    same_B = torch.ones(clips)
    return Resize(same_B if axes == "time" else factor_B, same_B if axes == "frequency" else factor_B)


def apply_resize(spec_BFN: Tensor, resize: Resize) -> Tensor:
    """Scale each spectrogram from its first bin and frame, at the same size: (B, F, N) -> (B, F, N).

    Bilinear between bin and frame centres: output i shows input (i + 0.5) / factor - 0.5. What grows beyond the edges
    is cropped. Where it shrinks, time is tiled and the bins above are zero.
    """
    _, bins, frames = spec_BFN.shape
    device = spec_BFN.device
    frequency_B1, time_B1 = (factor_B.to(device)[:, None] for factor_B in resize)
    filled_B1 = (frames * time_B1).round().clamp(min=1)
    row_BF = (torch.arange(bins, device=device) + 0.5) / frequency_B1
    column_BN = (torch.arange(frames, device=device) % filled_B1 + 0.5) / time_B1
    # grid_sample's unit is half a side, from -1 at the outer edge of the first cell to 1 at that of the last.
    grid_BFN2 = torch.stack(
        [
            (2 * column_BN / frames - 1)[:, None].expand(-1, bins, -1),
            (2 * row_BF / bins - 1)[:, :, None].expand(-1, -1, frames),
        ],
        dim=3,
    )
    scaled = fn.grid_sample(spec_BFN[:, None], grid_BFN2, padding_mode="border", align_corners=False)[:, 0]
    return scaled * (row_BF < bins)[:, :, None]
