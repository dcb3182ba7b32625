"""Cutmix in time: one stretch of the clip is kept, the rest is another clip (paper §3.1.3, eq. 8 and 9).

Shapes: B clips, T samples.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from models.losses.multi_label import Mix


class Cut(NamedTuple):
    """Cutmix parameters: samples [start_B, start_B + length_B) stay, all others come from the partner."""

    mix: Mix
    start_B: Tensor  # int64
    length_B: Tensor  # int64


def draw_cutmix(clips: int, samples: int, probability: float, generator: torch.Generator) -> Cut:
    """Draw per clip whether it is cut, and a stretch of lambda * T samples; labels follow the samples really kept."""
    cut = torch.rand(clips, generator=generator) < probability
    share = torch.where(cut, torch.rand(clips, generator=generator), 1.0)
    length_B = (share * samples).round().long()
    room_B = samples - length_B
    start_B = (torch.rand(clips, generator=generator, dtype=torch.float64) * (room_B + 1)).long()
    partner_B = torch.randperm(clips, generator=generator)
    return Cut(Mix(partner_B, length_B / samples), start_B, length_B)


def apply_cutmix(wave_BT: Tensor, cut: Cut) -> Tensor:
    """Keep each clip's stretch and fill the rest from its partner at the same positions: (B, T) -> (B, T)."""
    time_T = torch.arange(wave_BT.shape[1], device=wave_BT.device)
    since_BT = time_T - cut.start_B[:, None]
    kept_BT = (since_BT >= 0) & (since_BT < cut.length_B[:, None])
    return torch.where(kept_BT, wave_BT, wave_BT[cut.mix.partner_B])
