"""g_attr: the network that tells apart how one machine sounds, whatever noise is around it (paper §3.2.1, §4.1).

Shapes: B clips, T samples, F frequency bins, N frames, D embedding size.
"""

from torch import Tensor, nn

from models.features import AmplitudeSpectrogram
from models.networks import StftBranch
from models.precision import network_precision


class AttributeEncoder(nn.Module):
    """An STFT branch on f_attr, the spectrogram with temporal mean normalisation: (B, T) -> (B, D) float32.

    Without `tmn` steady tones stay in; the report takes them out.
    """

    def __init__(
        self, *, n_fft: int = 1024, embedding_dim: int = 128, tmn: bool = True, autocast: bool = False
    ) -> None:
        super().__init__()
        self.autocast = autocast
        self.feature = AmplitudeSpectrogram(n_fft=n_fft, tmn=tmn)
        self.network = StftBranch(bins=self.feature.bins, embedding_dim=embedding_dim)

    def forward(self, wave_BT: Tensor) -> Tensor:
        return self.embed(self.spectrogram(wave_BT))

    def spectrogram(self, wave_BT: Tensor) -> Tensor:
        """f_attr: (B, T) -> (B, F, N); what Noise and Resize work on."""
        spec_BFN: Tensor = self.feature(wave_BT)
        return spec_BFN

    def embed(self, spec_BFN: Tensor) -> Tensor:
        """The network alone: (B, F, N) -> (B, D) float32."""
        with network_precision(spec_BFN.device.type, self.autocast):
            embed_BD: Tensor = self.network(spec_BFN)
        return embed_BD.float()
