"""The baseline's log-mel recomputed in numpy, its vectors and distances by loops, its network by counting."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from models.autoencoder import (
    Autoencoder,
    LogMel,
    fit_error_covariance,
    mahalanobis_score,
    reconstruction_error,
    stack_frames,
)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def slaney_hz(mel: float) -> float:
    """Linear to 1 kHz (15 mel), then 27 mel for each factor of 6.4."""
    return mel * 200 / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27)


def mel_filters(bands: int, n_fft: int, rate: int = 16_000) -> np.ndarray:
    """Triangles of area 1 between equally spaced mels, as in librosa.filters.mel: (F, bins)."""
    top = 15 + 27 * math.log(rate / 2 / 1000) / math.log(6.4)
    edges = [slaney_hz(top * i / (bands + 1)) for i in range(bands + 2)]
    filters = np.zeros((bands, n_fft // 2 + 1))
    for f, (low, mid, high) in enumerate(zip(edges, edges[1:], edges[2:], strict=False)):
        for k in range(n_fft // 2 + 1):
            hz = k * rate / n_fft
            filters[f, k] = max(0.0, min((hz - low) / (mid - low), (high - hz) / (high - mid))) * 2 / (high - low)
    return filters


def log_mel_by_hand(wave_T: np.ndarray) -> np.ndarray:
    """(T,) -> (N, 128), frame by frame, with zeros beyond the edges."""
    padded = np.concatenate([np.zeros(512), wave_T, np.zeros(512)])
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(1024) / 1024)
    frames = [padded[s : s + 1024] * window for s in range(0, len(padded) - 1023, 512)]
    power = np.stack([np.abs(np.fft.rfft(frame)) ** 2 for frame in frames])
    return 10 * np.log10(np.maximum(power @ mel_filters(128, 1024).T, np.finfo(float).eps))


def test_log_mel_equals_an_independent_computation() -> None:
    wave_BT = 0.1 * noise(2, 5000)
    mel_BNF = LogMel()(wave_BT)
    assert mel_BNF.shape == (2, 5000 // 512 + 1, 128)
    for b in range(2):
        np.testing.assert_allclose(mel_BNF[b].numpy(), log_mel_by_hand(wave_BT[b].double().numpy()), atol=2e-3)


def test_no_mel_band_is_empty_and_a_tone_lights_up_its_own() -> None:
    filters = mel_filters(128, 1024)
    assert (filters.max(axis=1) > 0).all()
    tone_T = torch.sin(2 * math.pi * 1000 / 16_000 * torch.arange(16_000))
    loudest = LogMel()(tone_T[None])[0, 10].argmax().item()
    assert loudest == filters[:, 64].argmax()  # bin 64 is 1 kHz


def test_digital_silence_is_the_floor() -> None:
    torch.testing.assert_close(LogMel()(torch.zeros(1, 4096)), torch.full((1, 9, 128), -156.5356), atol=1e-3, rtol=0)


def test_log_mel_is_quadratic_in_amplitude() -> None:
    wave_BT = noise(1, 4096)
    torch.testing.assert_close(LogMel()(wave_BT / 10), LogMel()(wave_BT) - 20, atol=1e-3, rtol=0)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(clips=st.integers(1, 3), length=st.integers(5, 12), bands=st.integers(1, 6), frames=st.integers(1, 5))
def test_vectors_are_consecutive_frames_end_to_end(clips: int, length: int, bands: int, frames: int) -> None:
    mel_BNF = noise(clips, length, bands)
    vectors_BVD = stack_frames(mel_BNF, frames=frames)
    assert vectors_BVD.shape == (clips, length - frames + 1, frames * bands)
    for b in range(clips):
        for v in range(length - frames + 1):
            expected = np.concatenate([mel_BNF[b, v + k].numpy() for k in range(frames)])
            np.testing.assert_array_equal(vectors_BVD[b, v].numpy(), expected)


def test_a_view_of_128_bands_gives_single_frames() -> None:
    mel_BNF = noise(1, 7, 128)
    vectors_BVD = stack_frames(mel_BNF)
    assert vectors_BVD.shape == (1, 3, 640)
    frames = vectors_BVD.view(-1, 128)
    for v in range(3):
        torch.testing.assert_close(frames[5 * v : 5 * v + 5], mel_BNF[0, v : v + 5])


def test_a_clip_of_too_few_frames_is_refused() -> None:
    with pytest.raises(ValueError, match="4 frames do not make a vector of 5"):
        stack_frames(noise(1, 4, 128))


def test_parameters_are_those_of_the_official_network() -> None:
    layers = [640, 128, 128, 128, 128, 8, 128, 128, 128, 128, 640]
    linear = sum(i * o + o for i, o in pairwise(layers))
    norms = 2 * sum(layers[1:-1])
    model = Autoencoder()
    assert sum(p.numel() for p in model.parameters()) == linear + norms == 267_928
    kinds = [type(module) for module in model.modules() if not list(module.children())]
    assert kinds == [nn.Linear, nn.BatchNorm1d, nn.ReLU] * 9 + [nn.Linear]
    assert [m.in_features for m in model.modules() if isinstance(m, nn.Linear)] == layers[:-1]


def test_initial_weights_come_from_torchs_random_state() -> None:
    weights = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        weights.append(torch.cat([p.flatten() for p in Autoencoder().parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_every_parameter_gets_a_gradient() -> None:
    torch.manual_seed(0)
    model = Autoencoder()
    vectors_VD = noise(32, 640)
    reconstruction_error(vectors_VD, model(vectors_VD)).mean().backward()
    # The bias before a batch normalisation has none by construction: its mean is subtracted again.
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        if parameter.ndim == 2:
            assert parameter.grad.abs().sum() > 0, name


def test_reconstruction_error_by_hand() -> None:
    vectors_VD = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    rebuilt_VD = torch.tensor([[1.0, 4.0], [3.0, 1.0]])
    torch.testing.assert_close(reconstruction_error(vectors_VD, rebuilt_VD), torch.tensor([2.0, 5.0]))


def test_a_short_training_finds_the_line_that_vectors_lie_on() -> None:
    torch.manual_seed(0)
    model = Autoencoder(bands=4, frames=2, hidden=16, bottleneck=2)
    vectors_VD = noise(256, 1) * noise(1, 8, seed=1)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(150):
        loss = reconstruction_error(vectors_VD, model(vectors_VD)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


def test_the_inverse_covariance_by_hand() -> None:
    """Errors (±1, 0) and (0, ±2): variances 2/3 and 8/3, no correlation."""
    error_NF = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0], [0.0, -2.0]])
    inverse_FF = fit_error_covariance(error_NF)
    torch.testing.assert_close(inverse_FF, torch.tensor([[1.5, 0.0], [0.0, 0.375]], dtype=torch.float64))
    # (1, 2) is 1.5 + 1.5 away, (2, 0) is 6 away; their mean (1.5, 1) is 3.375 + 0.375 away
    clip_NF = torch.tensor([[1.0, 2.0], [2.0, 0.0]])
    assert mahalanobis_score(clip_NF, inverse_FF, None) == pytest.approx(4.5)
    assert mahalanobis_score(clip_NF, inverse_FF, None, of_mean_error=True) == pytest.approx(3.75)


def test_the_smaller_of_the_two_mean_distances_counts() -> None:
    """Means are compared, not samples: the mean of the smaller distances would be 1."""
    source, target = torch.diag(torch.tensor([1.0, 3.0])).double(), torch.diag(torch.tensor([4.0, 1.0])).double()
    clip_NF = torch.eye(2)  # 1 and 3 by the source, 4 and 1 by the target
    assert mahalanobis_score(clip_NF, source, target) == 2.0
    assert mahalanobis_score(clip_NF, target, source) == 2.0
    assert mahalanobis_score(clip_NF, target, None) == 2.5


@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=st.integers(0, 999), bands=st.integers(1, 6), samples=st.integers(1, 9))
def test_distances_equal_a_loop_with_numpy(seed: int, bands: int, samples: int) -> None:
    train = {name: noise(50, bands, seed=seed + k) @ noise(bands, bands, seed=k) for k, name in enumerate("st")}
    clip_NF = noise(samples, bands, seed=seed + 7)
    means, pooled = [], []
    for error_NF in train.values():
        inverse = np.linalg.inv(np.cov(error_NF.double().numpy(), rowvar=False).reshape(bands, bands))
        clip = clip_NF.double().numpy()
        pairs = [[clip[i] @ inverse @ clip[j] for j in range(samples)] for i in range(samples)]
        means.append(np.mean(np.diag(pairs)))
        pooled.append(np.mean(pairs))
    inverses = [fit_error_covariance(error_NF) for error_NF in train.values()]
    assert mahalanobis_score(clip_NF, *inverses) == pytest.approx(min(means), rel=1e-5)
    assert mahalanobis_score(clip_NF, *inverses, of_mean_error=True) == pytest.approx(min(pooled), rel=1e-5, abs=1e-9)


def test_the_covariance_does_not_depend_on_where_it_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    error_NF = noise(100, 5) + 40
    whole = fit_error_covariance(error_NF)
    monkeypatch.setattr("models.autoencoder.CHUNK", 7)
    torch.testing.assert_close(fit_error_covariance(error_NF), whole)


@pytest.mark.parametrize(
    "error_NF",
    [noise(1, 8), noise(3, 8), torch.zeros(5, 8), noise(40, 8) * torch.tensor([1.0] * 7 + [0.0])],
    ids=["one sample", "fewer samples than bands", "no error at all", "one silent band"],
)
def test_singular_covariances_give_finite_positive_scores(error_NF: torch.Tensor) -> None:
    inverse_FF = fit_error_covariance(error_NF)
    assert torch.linalg.eigvalsh(inverse_FF).min() > 0
    assert math.isfinite(mahalanobis_score(noise(20, 8, seed=5), inverse_FF, None))
    assert mahalanobis_score(noise(20, 8, seed=5), inverse_FF, None) > 0


def test_a_direction_never_seen_is_far_and_does_not_touch_the_others() -> None:
    error_NF = noise(100, 4) * torch.tensor([1.0, 2.0, 3.0, 0.0])
    inverse_FF = fit_error_covariance(error_NF)
    exact = np.linalg.inv(np.cov(error_NF[:, :3].double().numpy(), rowvar=False))
    np.testing.assert_allclose(inverse_FF[:3, :3].numpy(), exact, rtol=1e-6, atol=1e-9)
    unseen = torch.tensor([[0.0, 0.0, 0.0, 1.0]])
    assert mahalanobis_score(unseen, inverse_FF, None) == pytest.approx(4e6 / np.trace(np.linalg.inv(exact)))


def test_a_poorly_known_target_domain_does_not_swallow_every_clip() -> None:
    source, target = fit_error_covariance(noise(500, 8)), fit_error_covariance(noise(3, 8, seed=1))
    clip_NF = noise(50, 8, seed=2)
    assert mahalanobis_score(clip_NF, source, target) == mahalanobis_score(clip_NF, source, None)


@pytest.mark.parametrize("error_NF", [torch.zeros(0, 4), torch.full((3, 4), math.nan)])
def test_errors_without_a_covariance_are_refused(error_NF: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="at least one sample, all finite"):
        fit_error_covariance(error_NF)
