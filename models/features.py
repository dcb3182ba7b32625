"""Spectra that the branches look at (paper §2.1, §3.1.1, §4.1).

Shapes: B clips, T samples, F frequency bins, N frames.
"""

import math

import torch
from torch import Tensor, nn

from models.branches import SAMPLE_RATE_HZ

MIN_FREQUENCY_HZ = 200.0
MAX_FREQUENCY_HZ = 8_000.0


def band(n_fft: int, low_hz: float = MIN_FREQUENCY_HZ, high_hz: float = MAX_FREQUENCY_HZ) -> slice:
    """The DFT bins whose centre lies in [low_hz, high_hz], both included (1997 bins for n_fft = 4096, 63 for 128)."""
    # Multiplied before divided: a quotient by the bin width is rounded twice and can lose a bin at the very edge.
    return slice(math.ceil(low_hz * n_fft / SAMPLE_RATE_HZ), math.floor(high_hz * n_fft / SAMPLE_RATE_HZ) + 1)


class AmplitudeSpectrum(nn.Module):
    """f1: the magnitude of the DFT of a whole clip, not normalised: (B, T) -> (B, T // 2 + 1)."""

    def forward(self, wave_BT: Tensor) -> Tensor:
        return _magnitude(torch.fft.rfft(wave_BT.float()))


class AmplitudeSpectrogram(nn.Module):
    """f2, f3, f_attr: the magnitude STFT between 200 Hz and 8 kHz: (B, T) -> (B, F, N).

    Periodic Hann window as long as the DFT, hop of half of it, centred with reflect padding, divided by the window's
    L2 norm, no logarithm. With `tmn` the temporal mean of each bin is subtracted (paper §2.1), which leaves only what
    changes over time.
    """

    window: Tensor

    def __init__(self, *, n_fft: int, tmn: bool) -> None:
        super().__init__()
        if n_fft < 16 or n_fft % 2:
            raise ValueError(f"n_fft must be even and at least 16, not {n_fft}")
        self.band = band(n_fft)
        self.bins = self.band.stop - self.band.start
        self.tmn = tmn
        self.hop = n_fft // 2
        window = torch.hann_window(n_fft)
        self.register_buffer("window", window / torch.linalg.vector_norm(window), persistent=False)

    def forward(self, wave_BT: Tensor) -> Tensor:
        if wave_BT.shape[1] <= self.hop:
            raise ValueError(f"{wave_BT.shape[1]} samples are too few for n_fft {2 * self.hop}")
        wave = wave_BT.float()
        ends = wave[:, 1 : self.hop + 1].flip(1), wave[:, -self.hop - 1 : -1].flip(1)
        padded = torch.cat([ends[0], wave, ends[1]], dim=1)  # reflected; `fn.pad` takes three times as long
        frames_BNT = padded.unfold(1, 2 * self.hop, self.hop) * self.window  # faster than torch.stft: one pass less
        spec_BFN = _magnitude(torch.fft.rfft(frames_BNT)[..., self.band]).transpose(1, 2)
        return spec_BFN - spec_BFN.mean(dim=2, keepdim=True) if self.tmn else spec_BFN


def _magnitude(spectrum: Tensor) -> Tensor:
    """|z| without the care of `abs` for numbers near the ends of float32's range, three times as fast."""
    return spectrum.real.square().addcmul_(spectrum.imag, spectrum.imag).sqrt_()
