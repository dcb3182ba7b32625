"""Spectra that the branches look at (paper §2.1, §3.1.1, §4.1).

Shapes: B clips, T samples, F frequency bins, N frames.
"""

import math

import torch
from torch import Tensor, nn
from torchaudio.transforms import Spectrogram

SAMPLE_RATE_HZ = 16_000
MIN_FREQUENCY_HZ = 200.0
MAX_FREQUENCY_HZ = 8_000.0


def band(n_fft: int, low_hz: float = MIN_FREQUENCY_HZ, high_hz: float = MAX_FREQUENCY_HZ) -> slice:
    """The DFT bins whose centre lies in [low_hz, high_hz], both included (1997 bins for n_fft = 4096, 63 for 128)."""
    # Multiplied before divided: a quotient by the bin width is rounded twice and can lose a bin at the very edge.
    return slice(math.ceil(low_hz * n_fft / SAMPLE_RATE_HZ), math.floor(high_hz * n_fft / SAMPLE_RATE_HZ) + 1)


class AmplitudeSpectrum(nn.Module):
    """f1: the magnitude of the DFT of a whole clip, not normalised: (B, T) -> (B, T // 2 + 1)."""

    def forward(self, wave_BT: Tensor) -> Tensor:
        return torch.fft.rfft(wave_BT.float()).abs()


class AmplitudeSpectrogram(nn.Module):
    """f2, f3, f_attr: the magnitude STFT between 200 Hz and 8 kHz: (B, T) -> (B, F, N).

    Periodic Hann window as long as the DFT, hop of half of it, centred with reflect padding, divided by the window's
    L2 norm, no logarithm. With `tmn` the temporal mean of each bin is subtracted (paper §2.1), which leaves only what
    changes over time.
    """

    def __init__(self, *, n_fft: int, tmn: bool) -> None:
        super().__init__()
        if n_fft < 16 or n_fft % 2:
            raise ValueError(f"n_fft must be even and at least 16, not {n_fft}")
        self.band = band(n_fft)
        self.bins = self.band.stop - self.band.start
        self.tmn = tmn
        self.stft = Spectrogram(n_fft=n_fft, hop_length=n_fft // 2, power=1.0, normalized="window")
        self.stft.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    def forward(self, wave_BT: Tensor) -> Tensor:
        spec_BFN: Tensor = self.stft(wave_BT.float())[:, self.band]
        return spec_BFN - spec_BFN.mean(dim=2, keepdim=True) if self.tmn else spec_BFN
