"""Anchor, positive and negative of every clip of a batch (paper eq. 13-15).

Shapes: B clips of one machine, P clips of other machines, F frequency bins, N frames.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from models.augment.noise import MAX_SNR_DB, MIN_SNR_DB, Noise, add_noise, draw_noise
from models.augment.resize import Axes, Resize, apply_resize, draw_resize


class TripletDraw(NamedTuple):
    """All that is random about a batch of triplets."""

    noisy_anchor_B: Tensor  # bool
    resized_B: Tensor  # bool: the negative is the clip resized, else another clip
    noisy_negative_B: Tensor  # bool
    partner_B: Tensor  # int64: the other clip
    resize: Resize
    anchor_noise: Noise
    positive_noise: Noise
    negative_noise: Noise


def draw_triplets(
    clips: int,
    noises: int,
    generator: torch.Generator,
    *,
    min_snr_db: float = MIN_SNR_DB,
    max_snr_db: float = MAX_SNR_DB,
    axes: Axes = "both",
) -> TripletDraw:
    """Draw two kinds of anchor and four kinds of negative with equal chance, and noise for each part alone.

    ValueError: fewer than two clips, so that there is no other one.
    """
    if clips < 2:
        raise ValueError("a batch of triplets needs at least two clips of the machine")
    noisy_anchor_B, resized_B, noisy_negative_B = torch.rand(3, clips, generator=generator) < 0.5
    anchor, positive, negative = (draw_noise(clips, noises, generator, min_snr_db, max_snr_db) for _ in range(3))
    return TripletDraw(
        noisy_anchor_B=noisy_anchor_B,
        resized_B=resized_B,
        noisy_negative_B=noisy_negative_B,
        partner_B=(torch.arange(clips) + torch.randint(1, clips, (clips,), generator=generator)) % clips,
        resize=draw_resize(clips, generator, axes),
        anchor_noise=anchor,
        positive_noise=positive,
        negative_noise=negative,
    )


def make_triplets(spec_BFN: Tensor, noise_PFN: Tensor, draw: TripletDraw) -> tuple[Tensor, Tensor, Tensor]:
    """Anchor, positive and negative spectrograms, each (B, F, N); noise_PFN (P, F, N) are other machines' clips."""
    noisy_anchor_B, noisy_negative_B = (f.to(spec_BFN.device) for f in (draw.noisy_anchor_B, draw.noisy_negative_B))
    anchor = torch.where(noisy_anchor_B[:, None, None], add_noise(spec_BFN, noise_PFN, draw.anchor_noise), spec_BFN)
    positive = add_noise(spec_BFN, noise_PFN, draw.positive_noise)
    other = spec_BFN[draw.partner_B.to(spec_BFN.device)]
    picked = torch.nonzero(draw.resized_B)[:, 0]
    factors = Resize(draw.resize.frequency_B[picked], draw.resize.time_B[picked])
    at = picked.to(spec_BFN.device)
    other[at] = apply_resize(spec_BFN[at], factors)
    noisy = add_noise(other, noise_PFN, draw.negative_noise)
    return anchor, positive, torch.where(noisy_negative_B[:, None, None], noisy, other)
