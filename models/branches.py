"""What a branch hears, and how long a clip must be for it (paper §2.1, spec §4); imports no torch, as configs do not.

Sizes come from the networks' unpadded convolutions: `models.networks` builds them with the same numbers.
"""

from typing import NamedTuple

SAMPLE_RATE_HZ = 16_000
DFT_CONVOLUTIONS = ((1, 256, 64), (128, 64, 32), (128, 16, 4))  # input channels, kernel, stride; 128 channels out
MIN_STFT_FRAMES = 11  # what the 7x7 stem and the pooling after it need


class Branch(NamedTuple):
    """One input feature: the DFT of the whole clip (`n_fft` is None), or an STFT of `n_fft` points."""

    n_fft: int | None = None
    tmn: bool = False


def valid_length(length: int, kernel: int, stride: int) -> int:
    """Length after an unpadded convolution or pooling."""
    return (length - kernel) // stride + 1


def dft_frames(bins: int) -> int:
    """Positions left after the three convolutions of the DFT branch (zero or less: the clip is too short)."""
    for _, kernel, stride in DFT_CONVOLUTIONS:
        bins = valid_length(bins, kernel, stride)
    return bins


def min_dft_bins() -> int:
    """The shortest spectrum that the DFT branch accepts: 35,008 bins, clips of 4.38 s."""
    length = 1
    for _, kernel, stride in reversed(DFT_CONVOLUTIONS):
        length = (length - 1) * stride + kernel
    return length


def min_clip_seconds(branch: Branch) -> float:
    """The shortest clip that a branch accepts, in seconds: 4.38 for the DFT, ten hops for an STFT."""
    if branch.n_fft is None:
        return 2 * (min_dft_bins() - 1) / SAMPLE_RATE_HZ
    return (MIN_STFT_FRAMES - 1) * (branch.n_fft // 2) / SAMPLE_RATE_HZ
