"""The discriminative feature extractor: waveform in, one embedding per branch out (paper eq. 1, Fig. 1).

Shapes: B clips, T samples, M branches, D embedding size of one branch.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.branches import Branch
from models.features import AmplitudeSpectrogram, AmplitudeSpectrum
from models.networks import DftBranch, StftBranch
from models.precision import network_precision


class Extractor(nn.Module):
    """M pairs of feature f_m and network g_m: (B, T) in [-1, 1] -> (B, M, D) float32; z_cat is its flattening.

    `clip_samples` is T; a DFT branch needs at least `min_clip_seconds()`. With `autocast` the networks run in bfloat16
    where that is faster (the FFTs stay in float32).
    """

    spectrum: type[AmplitudeSpectrum] = AmplitudeSpectrum
    spectrogram: type[AmplitudeSpectrogram] = AmplitudeSpectrogram
    dft_network: type[DftBranch] = DftBranch
    stft_network: type[StftBranch] = StftBranch

    def __init__(
        self, *, branches: Sequence[Branch], clip_samples: int, embedding_dim: int = 128, autocast: bool = False
    ) -> None:
        super().__init__()
        self.autocast = autocast
        self.features = nn.ModuleList()
        self.networks = nn.ModuleList()
        for branch in branches:
            if branch.n_fft is None:
                self.features.append(self.spectrum())
                self.networks.append(self.dft_network(bins=clip_samples // 2 + 1, embedding_dim=embedding_dim))
            else:
                spectrogram = self.spectrogram(n_fft=branch.n_fft, tmn=branch.tmn)
                self.features.append(spectrogram)
                self.networks.append(self.stft_network(bins=spectrogram.bins, embedding_dim=embedding_dim))

    def forward(self, wave_BT: Tensor) -> Tensor:
        return self.embed([feature(wave_BT) for feature in self.features])

    def embed(self, inputs: Sequence[Tensor]) -> Tensor:
        """The networks alone, on features computed before: M tensors -> (B, M, D) float32."""
        with network_precision(inputs[0].device.type, self.autocast):
            embeds = [network(x) for network, x in zip(self.networks, inputs, strict=True)]
        return torch.stack([embed_BD.float() for embed_BD in embeds], dim=1)
