"""Noise: another machine's spectrogram added at a random signal-to-noise ratio (paper eq. 13-15, spec §6).

Shapes: B clips, P noise clips, F frequency bins, N frames.
"""

from typing import NamedTuple

import torch
from torch import Tensor

MIN_SNR_DB, MAX_SNR_DB = -5.0, 5.0


class Noise(NamedTuple):
    """Which noise clip each clip gets, and how loud."""

    source_B: Tensor  # int64, a row of the noise clips
    snr_db_B: Tensor  # float32


def draw_noise(
    clips: int,
    noises: int,
    generator: torch.Generator,
    min_snr_db: float = MIN_SNR_DB,
    max_snr_db: float = MAX_SNR_DB,
) -> Noise:
    """Draw a noise clip and a ratio from [min, max) dB for each clip."""
    source_B = torch.randint(noises, (clips,), generator=generator)
    return Noise(source_B, min_snr_db + (max_snr_db - min_snr_db) * torch.rand(clips, generator=generator))


def add_noise(spec_BFN: Tensor, noise_PFN: Tensor, noise: Noise) -> Tensor:
    """Add to each amplitude spectrogram its noise clip's, scaled to the ratio: (B, F, N), (P, F, N) -> (B, F, N).

    The ratio is of powers, the mean squares over F and N. Nothing is added where a clip or its noise is silent.
    """
    chosen_BFN = noise_PFN[noise.source_B.to(noise_PFN.device)]
    ratio_B = 10 ** (-noise.snr_db_B.to(spec_BFN.device) / 20)
    signal_B, power_B = spec_BFN.square().mean(dim=(1, 2)), chosen_BFN.square().mean(dim=(1, 2))
    gain_B = ratio_B * (signal_B / power_B.clamp(min=torch.finfo(power_B.dtype).tiny)).sqrt()
    gain_B = torch.where(power_B > 0, gain_B, 0)
    return spec_BFN + gain_B[:, None, None] * chosen_BFN
