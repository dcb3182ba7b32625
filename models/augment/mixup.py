"""Mixup: a clip becomes a weighted sum of two (paper §2.2.2, eq. 2 and 3).

Shapes: B clips, T samples.
"""

import torch
from torch import Tensor

from models.losses.multi_label import Mix


def draw_mixup(clips: int, probability: float, generator: torch.Generator) -> Mix:
    """Draw per clip whether it is mixed, its share in U(0, 1), and a partner by one permutation of the batch."""
    mixed = torch.rand(clips, generator=generator) < probability
    keep_B = torch.where(mixed, torch.rand(clips, generator=generator), 1.0)
    return Mix(torch.randperm(clips, generator=generator), keep_B)


def apply_mixup(wave_BT: Tensor, mix: Mix) -> Tensor:
    """keep * own + (1 - keep) * partner: (B, T) -> (B, T)."""
    return wave_BT[mix.partner_B].lerp(wave_BT, mix.keep_B[:, None])
