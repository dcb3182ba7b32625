"""The challenge's baseline: a small autoencoder of log-mel frames and its two anomaly scores (spec §13, rows 1 and 2).

Shapes: B clips, T samples, N frames or error samples, F bands, V vectors, D = frames * F size of a vector.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torchaudio.transforms import MelSpectrogram

from models.branches import SAMPLE_RATE_HZ

BANDS = 128
FRAMES = 5
WINDOW_SAMPLES = 1024
HOP_SAMPLES = 512
POWER_FLOOR = torch.finfo(torch.float64).eps  # digital silence is -156.5 dB, as in the official baseline

BATCH_NORM_MOMENTUM, BATCH_NORM_EPS = 0.01, 1e-3  # the official baseline's, not torch's own 0.1 and 1e-5

RELATIVE_FLOOR = 1e-6  # smallest variance of any direction, relative to the mean variance of a band
ABSOLUTE_FLOOR = 1e-12  # dB², where a domain's errors do not vary at all
CHUNK = 1 << 16  # rows turned to float64 at a time: a machine's training errors are some 200 million numbers


class LogMel(nn.Module):
    """Log-mel energies in dB, one row a frame: waveforms in [-1, 1) (B, T) -> (B, N, F), N = T // hop + 1.

    Equals 10 * log10(max(m, eps)) with m = librosa's default melspectrogram (0.10 and later): periodic Hann window,
    centred frames with zeros beyond the edges, power 2, Slaney's mel scale up to 8 kHz, filters of equal area.
    """

    def __init__(
        self, *, bands: int = BANDS, window_samples: int = WINDOW_SAMPLES, hop_samples: int = HOP_SAMPLES
    ) -> None:
        super().__init__()
        self.mel = MelSpectrogram(
            sample_rate=SAMPLE_RATE_HZ,
            n_fft=window_samples,
            hop_length=hop_samples,
            n_mels=bands,
            power=2.0,
            pad_mode="constant",
            norm="slaney",
            mel_scale="slaney",
        )

    def forward(self, wave_BT: Tensor) -> Tensor:
        power_BNF: Tensor = self.mel(wave_BT.float()).transpose(1, 2)
        return 10 * power_BNF.clamp(min=POWER_FLOOR).log10()


def stack_frames(mel_BNF: Tensor, *, frames: int = FRAMES) -> Tensor:
    """Put each frame and the ones after it end to end: (B, N, F) -> (B, N - frames + 1, frames * F).

    Frame-major: a vector is frame 0's bands, then frame 1's, and so on; `.view(-1, F)` gives single frames back.
    ValueError: a clip has fewer frames than one vector needs.
    """
    if mel_BNF.shape[1] < frames:
        raise ValueError(f"{mel_BNF.shape[1]} frames do not make a vector of {frames}; the clip is too short")
    return mel_BNF.unfold(1, frames, 1).transpose(2, 3).flatten(2).contiguous()


class Autoencoder(nn.Module):
    """Squeezes vectors of stacked frames through a few numbers and rebuilds them: (V, D) -> (V, D).

    Linear layers D -> hidden x 4 -> bottleneck -> hidden x 4 -> D; batch normalisation and ReLU after all but the last.
    """

    def __init__(
        self, *, bands: int = BANDS, frames: int = FRAMES, hidden: int = 128, bottleneck: int = 8, depth: int = 4
    ) -> None:
        super().__init__()
        size = bands * frames
        *inner, (last_in, last_out) = pairwise([size, *[hidden] * depth, bottleneck, *[hidden] * depth, size])
        blocks = [_block(inputs, outputs) for inputs, outputs in inner]
        self.layers = nn.Sequential(*blocks, nn.Linear(last_in, last_out))

    def forward(self, vectors_VD: Tensor) -> Tensor:
        rebuilt_VD: Tensor = self.layers(vectors_VD)
        return rebuilt_VD


def _block(inputs: int, outputs: int) -> nn.Sequential:
    norm = nn.BatchNorm1d(outputs, eps=BATCH_NORM_EPS, momentum=BATCH_NORM_MOMENTUM)
    return nn.Sequential(nn.Linear(inputs, outputs), norm, nn.ReLU())


def reconstruction_error(vectors_VD: Tensor, rebuilt_VD: Tensor) -> Tensor:
    """Mean squared error of each vector, dB²: (V, D) twice -> (V,).

    Its mean is the training loss (over a batch) and row 1's anomaly score (over a clip).
    """
    return (vectors_VD - rebuilt_VD).square().mean(dim=1)


def fit_error_covariance(error_NF: Tensor) -> Tensor:
    """Inverse covariance, float64 (F, F), of one domain's reconstruction errors in dB (N, F).

    A sample is one frame of one vector, so vectors (V, D) enter as `.reshape(-1, F)`. Variances along the covariance's
    own axes are raised to 1e-6 of the mean band's where they are smaller (silent bands, fewer samples than bands): a
    direction never seen then counts as far away, and a covariance of full rank is inverted as it is. The official code
    divides by the number of vectors instead of samples, which scales all scores of a machine by 1/5 and changes no
    rank. ValueError: no sample, or one that is not finite.
    """
    if not len(error_NF) or not error_NF.isfinite().all():
        raise ValueError("a covariance of reconstruction errors needs at least one sample, all finite")
    mean_F = error_NF.mean(dim=0, dtype=torch.float64)
    sum_FF = torch.zeros(len(mean_F), len(mean_F), dtype=torch.float64, device=error_NF.device)
    for part_NF in error_NF.split(CHUNK):
        centred_NF = part_NF.double() - mean_F
        sum_FF += centred_NF.T @ centred_NF
    variance_F, axes_FF = torch.linalg.eigh(sum_FF / max(len(error_NF) - 1, 1))
    floor = max(RELATIVE_FLOOR * variance_F.mean().item(), ABSOLUTE_FLOOR)
    return (axes_FF / variance_F.clamp(min=floor)) @ axes_FF.T


def mahalanobis_score(
    error_NF: Tensor, inverse_source_FF: Tensor, inverse_target_FF: Tensor | None, *, of_mean_error: bool = False
) -> float:
    """Row 2's anomaly score of one clip: the smaller of its mean distances under the two domains' covariances.

    A distance is the squared Mahalanobis distance of one sample's error (N, F) from zero, as in the official baseline:
    no root is taken and the mean training error is not subtracted. Without target clips only the source's counts.

    `of_mean_error`: the distance of the clip's mean error instead. That is what the released official code works out:
    it averages e_i' S^-1 e_j over all pairs of samples, not only i = j. It ignores errors that cancel over the clip.
    """
    error = error_NF.double()
    sample_NF = error.mean(dim=0, keepdim=True) if of_mean_error else error
    inverses = [inverse for inverse in (inverse_source_FF, inverse_target_FF) if inverse is not None]
    return min(((sample_NF @ inverse) * sample_NF).sum(dim=1).mean().item() for inverse in inverses)
