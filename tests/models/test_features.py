"""Spectra recomputed with plain sums and numpy.fft, and the pinned band limits of the report."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.features import AmplitudeSpectrogram, AmplitudeSpectrum, band


def _noise(clips: int, samples: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(clips, samples, generator=torch.Generator().manual_seed(seed))


def _spectrogram_by_hand(wave_T: np.ndarray, n_fft: int) -> np.ndarray:
    """Frames cut one by one from the reflected clip: (T,) -> (all bins, N)."""
    hop, half = n_fft // 2, n_fft // 2
    padded = np.concatenate([wave_T[half:0:-1], wave_T, wave_T[-2 : -half - 2 : -1]])
    window = np.array([0.5 - 0.5 * math.cos(2 * math.pi * n / n_fft) for n in range(n_fft)])
    norm = math.sqrt(sum(w * w for w in window))
    starts = range(0, len(padded) - n_fft + 1, hop)
    return np.stack([np.abs(np.fft.rfft(padded[s : s + n_fft] * window)) / norm for s in starts], axis=1)


@pytest.mark.parametrize(("n_fft", "first", "count"), [(4096, 52, 1997), (1024, 13, 500), (128, 2, 63)])
def test_the_band_of_the_report_is_pinned(n_fft: int, first: int, count: int) -> None:
    assert band(n_fft) == slice(first, first + count)
    assert AmplitudeSpectrogram(n_fft=n_fft, tmn=False).bins == count


def test_a_bin_at_exactly_200_hz_belongs_to_the_band() -> None:
    assert band(1280).start == 16  # 12.5 Hz a bin, the 16th lies at 200 Hz


def test_band_equals_counting_the_bins_in_whole_numbers() -> None:
    for n_fft in range(16, 4200, 2):
        inside = [k for k in range(n_fft // 2 + 1) if 200 * n_fft <= 16_000 * k <= 8_000 * n_fft]
        assert band(n_fft) == slice(inside[0], inside[-1] + 1), n_fft


@settings(max_examples=10, deadline=None)
@given(samples=st.integers(2, 40), clips=st.integers(1, 3))
def test_spectrum_equals_the_sum_that_defines_it(samples: int, clips: int) -> None:
    wave_BT = _noise(clips, samples, seed=samples)
    spectrum_BF = AmplitudeSpectrum()(wave_BT)
    assert spectrum_BF.shape == (clips, samples // 2 + 1)
    time_T = np.arange(samples)
    for b in range(clips):
        for f in range(samples // 2 + 1):
            value = abs(np.sum(wave_BT[b].numpy() * np.exp(-2j * np.pi * f * time_T / samples)))
            assert spectrum_BF[b, f].item() == pytest.approx(value, abs=1e-4)


def test_spectrum_of_a_constant_is_the_number_of_samples_at_dc() -> None:
    spectrum_BF = AmplitudeSpectrum()(torch.ones(1, 10))
    torch.testing.assert_close(spectrum_BF, torch.tensor([[10.0, 0, 0, 0, 0, 0]]), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("n_fft", "samples"), [(128, 1000), (256, 1024), (1024, 3001)])
def test_spectrogram_equals_windowed_frames_by_numpy(n_fft: int, samples: int) -> None:
    wave_BT = _noise(2, samples)
    spec_BFN = AmplitudeSpectrogram(n_fft=n_fft, tmn=False)(wave_BT)
    assert spec_BFN.shape == (2, AmplitudeSpectrogram(n_fft=n_fft, tmn=False).bins, samples // (n_fft // 2) + 1)
    for b in range(2):
        by_hand = _spectrogram_by_hand(wave_BT[b].double().numpy(), n_fft)[band(n_fft)]
        np.testing.assert_allclose(spec_BFN[b].numpy(), by_hand, atol=1e-4)


def test_a_sine_at_a_bin_has_the_amplitude_of_the_window() -> None:
    """A sine of amplitude 1 gives sum(w) / 2 divided by the L2 norm of w, with sum(w) = n/2 and |w|^2 = 3n/8."""
    n_fft, k = 128, 16
    wave_BT = torch.sin(2 * math.pi * k * torch.arange(2048) / n_fft)[None]
    inner_N = AmplitudeSpectrogram(n_fft=n_fft, tmn=False)(wave_BT)[0, k - 2, 2:-2]
    expected = (n_fft / 2) / 2 / math.sqrt(3 * n_fft / 8)
    torch.testing.assert_close(inner_N, torch.full_like(inner_N, expected), rtol=1e-4, atol=0)


@settings(max_examples=8, deadline=None)
@given(samples=st.integers(600, 3000), n_fft=st.sampled_from([64, 128, 1024]), seed=st.integers(0, 99))
def test_tmn_subtracts_each_bins_own_mean_over_time(samples: int, n_fft: int, seed: int) -> None:
    wave_BT = _noise(2, samples, seed)
    plain_BFN = AmplitudeSpectrogram(n_fft=n_fft, tmn=False)(wave_BT)
    tmn_BFN = AmplitudeSpectrogram(n_fft=n_fft, tmn=True)(wave_BT)
    torch.testing.assert_close(tmn_BFN.mean(dim=2), torch.zeros(plain_BFN.shape[:2]), atol=1e-5, rtol=0)
    offset_BFN = plain_BFN - tmn_BFN
    torch.testing.assert_close(offset_BFN, offset_BFN[:, :, :1].expand_as(offset_BFN), atol=1e-5, rtol=0)


@settings(max_examples=8, deadline=None)
@given(gain=st.floats(-4, 4, allow_nan=False), tmn=st.booleans())
def test_features_scale_with_the_loudness_because_there_is_no_logarithm(gain: float, tmn: bool) -> None:
    wave_BT = _noise(1, 1000)
    for feature in (AmplitudeSpectrum(), AmplitudeSpectrogram(n_fft=128, tmn=tmn)):
        torch.testing.assert_close(feature(gain * wave_BT), abs(gain) * feature(wave_BT), atol=1e-3, rtol=1e-4)


def test_features_stay_float32_for_half_precision_input_and_store_nothing() -> None:
    wave_BT = _noise(1, 1024).bfloat16()
    spectrogram = AmplitudeSpectrogram(n_fft=128, tmn=True)
    assert spectrogram(wave_BT).dtype == AmplitudeSpectrum()(wave_BT).dtype == torch.float32
    assert not spectrogram.state_dict()


@pytest.mark.parametrize("n_fft", [0, 14, 129])
def test_an_unusable_n_fft_is_refused(n_fft: int) -> None:
    with pytest.raises(ValueError, match="even and at least 16"):
        AmplitudeSpectrogram(n_fft=n_fft, tmn=False)


def test_too_few_samples_are_refused() -> None:
    feature = AmplitudeSpectrogram(n_fft=128, tmn=False)
    assert feature(torch.rand(1, 65)).shape == (1, 63, 2)
    with pytest.raises(ValueError, match="64 samples are too few for n_fft 128"):
        feature(torch.rand(1, 64))
