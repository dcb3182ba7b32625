"""The extractor as it is commonly written: torchaudio's spectrogram, float32, the default layout, autograd alone.

It has the weights of the fast one and its embeddings up to rounding: what the fast one is tested and timed against.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as fn
from torchaudio.transforms import Spectrogram

from models.extractor import Extractor
from models.features import AmplitudeSpectrogram, AmplitudeSpectrum
from models.networks import DftBranch, ResidualBlock, SqueezeExcitation, StftBranch


class PlainSpectrum(AmplitudeSpectrum):
    """The magnitude of the DFT: (B, T) -> (B, T // 2 + 1)."""

    def forward(self, wave_BT: Tensor) -> Tensor:
        return torch.fft.rfft(wave_BT).abs()


class PlainSpectrogram(AmplitudeSpectrogram):
    """The magnitude STFT of torchaudio: (B, T) -> (B, F, N)."""

    def __init__(self, *, n_fft: int, tmn: bool) -> None:
        super().__init__(n_fft=n_fft, tmn=tmn)
        self.stft = Spectrogram(n_fft=n_fft, hop_length=n_fft // 2, power=1.0, normalized="window")
        self.stft.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    def forward(self, wave_BT: Tensor) -> Tensor:
        spec_BFN: Tensor = self.stft(wave_BT)[:, self.band]
        return spec_BFN - spec_BFN.mean(dim=2, keepdim=True) if self.tmn else spec_BFN


class PlainDftBranch(DftBranch):
    """The 1-D convolutions as torch has them, and their gates differentiated by autograd."""

    convolution = nn.Conv1d
    gate = SqueezeExcitation


class PlainBlock(ResidualBlock):
    """A residual block whose gate and sum are differentiated by autograd."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm_in(x)
        out = self.conv_2(fn.relu(self.norm_mid(self.conv_1(fn.relu(x)))))
        total: Tensor = self.shortcut(x) + self.gate(out)
        return total


class PlainStftBranch(StftBranch):
    """The small ResNet with its 7x7 stem as it stands in the paper."""

    block = PlainBlock

    def __init__(self, *, bins: int, embedding_dim: int) -> None:
        super().__init__(bins=bins, embedding_dim=embedding_dim)
        self.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]

    def forward(self, spec_BFN: Tensor) -> Tensor:
        x = self.stem(self.norm_bins(spec_BFN).unsqueeze(1))
        x = fn.max_pool2d(fn.relu(self.norm_stem(x)), 3, 2)
        maps_BCF = self.blocks(x).amax(dim=3)
        embed_BD: Tensor = self.project(self.norm_out(maps_BCF.flatten(1)))
        return embed_BD


class PlainExtractor(Extractor):
    """M pairs of feature and network, as `Extractor`."""

    spectrum = PlainSpectrum
    spectrogram = PlainSpectrogram
    dft_network = PlainDftBranch
    stft_network = PlainStftBranch
