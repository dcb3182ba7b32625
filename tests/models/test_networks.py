"""Branch networks: pinned sizes, no bias, and layers recomputed from the text of the spec."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as fn

from models.branches import dft_frames, min_dft_bins
from models.networks import DftBranch, ResidualBlock, SqueezeExcitation, StftBranch


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def _randomise_norms(module: nn.Module) -> None:
    """Statistics and weights as after training, so that a forgotten normalisation shows."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias)
            assert layer.running_mean is not None
            assert layer.running_var is not None
            nn.init.normal_(layer.running_mean)
            nn.init.uniform_(layer.running_var, 0.5, 2.0)


def _norm(x: Tensor, layer: Any) -> Tensor:
    """Batch normalisation of inference, written out."""
    shape = [1, -1] + [1] * (x.ndim - 2)
    mean, variance = layer.running_mean.view(shape), layer.running_var.view(shape)
    normed: Tensor = (x - mean) / (variance + layer.eps).sqrt()
    normed = normed * layer.weight.view(shape) + layer.bias.view(shape)
    return normed


def _shapes(network: nn.Module, modules: list[nn.Module], x: Tensor) -> list[tuple[int, ...]]:
    """Output shape, without the batch, of each module while `x` passes through."""
    seen: list[tuple[int, ...]] = []
    handles = [m.register_forward_hook(lambda _m, _i, out: seen.append(tuple(out.shape[1:]))) for m in modules]
    with torch.no_grad():
        network.eval()(x)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize(("seconds", "frames"), [(10, 6), (12, 8), (18, 14)])
def test_dft_frames_are_pinned(seconds: int, frames: int) -> None:
    assert dft_frames(seconds * 16_000 // 2 + 1) == frames


def test_dft_stages_of_a_10_s_clip() -> None:
    branch = DftBranch(bins=80_001, embedding_dim=128)
    stages = _shapes(branch, list(branch.convolutions), torch.rand(1, 80_001))
    assert stages == [(128, 1247), (128, 37), (128, 6)]
    linear = [m for m in branch.head.modules() if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linear] == [(768, 128)] + [(128, 128)] * 5


def test_the_shortest_spectrum_is_sharp() -> None:
    assert min_dft_bins() == 35_008 == 256 + 64 * (64 + 32 * (16 - 1) - 1)
    assert dft_frames(35_008) == 1
    assert dft_frames(35_007) < 1
    assert DftBranch(bins=35_008, embedding_dim=8).eval()(torch.rand(1, 35_008)).shape == (1, 8)
    with pytest.raises(ValueError, match="at least 35008"):
        DftBranch(bins=35_007, embedding_dim=8)


def test_the_dft_branch_in_its_order() -> None:
    """Convolution, ReLU, gate three times; Linear, BatchNorm, ReLU five times; Linear."""
    branch: Any = DftBranch(bins=35_100, embedding_dim=8).eval()
    _randomise_norms(branch)
    spectrum_BF = torch.rand(2, 35_100)
    x = spectrum_BF[:, None]
    for (convolution, _, gate), stride in zip(branch.convolutions, (64, 32, 4), strict=True):
        x = fn.conv1d(x, convolution.weight, stride=stride).clamp(min=0)
        x = x * torch.sigmoid((x.mean(2) @ gate.squeeze.weight.T).clamp(min=0) @ gate.excite.weight.T)[:, :, None]
    x = x.flatten(1)
    for linear, norm, _ in list(branch.head)[:-1]:
        x = _norm(x @ linear.weight.T, norm).clamp(min=0)
    torch.testing.assert_close(branch(spectrum_BF), x @ branch.head[-1].weight.T, rtol=1e-3, atol=1e-4)


def test_one_convolution_equals_a_loop() -> None:
    branch: Any = DftBranch(bins=35_008, embedding_dim=8)
    spectrum_BF = torch.rand(1, 35_008)
    weight = branch.convolutions[0][0].weight.detach().numpy()
    maps = branch.convolutions[0][0](spectrum_BF[:, None]).detach()[0]
    for channel, position in [(0, 0), (17, 3), (127, maps.shape[1] - 1)]:
        stretch = spectrum_BF[0, 64 * position : 64 * position + 256].numpy()
        by_hand = sum(float(w) * float(v) for w, v in zip(weight[channel, 0], stretch, strict=True))
        assert maps[channel, position].item() == pytest.approx(by_hand, abs=1e-4)


@pytest.mark.parametrize(("bins", "rows"), [(1997, 63), (500, 16), (63, 2)])
def test_stft_stages_are_pinned(bins: int, rows: int) -> None:
    """Rows per block: 1997 -> stem 996 -> pool 497 -> 497, 249, 125, 63; 41 frames -> 18 -> 8 -> 8, 4, 2, 1."""
    branch = StftBranch(bins=bins, embedding_dim=128)
    stages = _shapes(branch, list(branch.blocks), torch.rand(2, bins, 41))
    pooled = ((bins - 7) // 2 + 1 - 3) // 2 + 1
    halved = [pooled, (pooled + 1) // 2, (pooled + 3) // 4, (pooled + 7) // 8]
    expected = [(c, f, n) for c, f, n in zip((16, 32, 64, 128), halved, (8, 4, 2, 1), strict=True) for _ in range(2)]
    assert stages == expected
    assert halved[-1] == rows
    assert tuple(branch.project.weight.shape) == (128, 128 * rows)


@settings(max_examples=6, deadline=None)
@given(bins=st.integers(11, 80), frames=st.integers(11, 60), dim=st.integers(1, 9))
def test_any_number_of_bins_and_frames_gives_one_embedding(bins: int, frames: int, dim: int) -> None:
    branch = StftBranch(bins=bins, embedding_dim=dim)
    embed_BD = branch(torch.rand(2, bins, frames))
    assert embed_BD.shape == (2, dim)
    assert embed_BD.isfinite().all()


def test_too_few_bins_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 11"):
        StftBranch(bins=10, embedding_dim=8)


def test_the_stft_branch_in_its_order() -> None:
    branch = StftBranch(bins=63, embedding_dim=8).eval()
    _randomise_norms(branch)
    spec_BFN = torch.rand(2, 63, 50)
    x = _norm(spec_BFN, branch.norm_bins)[:, None]
    x = _norm(fn.conv2d(x, branch.stem.weight, stride=2), branch.norm_stem).clamp(min=0)
    x = branch.blocks(fn.max_pool2d(x, 3, 2))
    x = _norm(x.max(dim=3).values.reshape(2, -1), branch.norm_out)
    torch.testing.assert_close(branch(spec_BFN), x @ branch.project.weight.T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("bins", "frames"), [(63, 50), (500, 20)])
def test_folded_normalisations_change_nothing(bins: int, frames: int) -> None:
    """Without gradients the kernels take in the normalisations after them, negative scales too."""
    branch = StftBranch(bins=bins, embedding_dim=8).eval()
    _randomise_norms(branch)
    with torch.no_grad():
        branch.norm_stem.weight[::2] *= -1
        for block in branch.blocks:
            block.norm_mid.weight[::2] *= -1
    spec_BFN = torch.rand(2, bins, frames)
    expected = branch(spec_BFN)
    with torch.no_grad():
        torch.testing.assert_close(branch(spec_BFN), expected, rtol=1e-4, atol=1e-4)


def test_time_is_reduced_by_a_maximum() -> None:
    """A clip that repeats itself with period 32 (the product of all strides) looks the same when it is longer."""
    branch = StftBranch(bins=63, embedding_dim=8).eval()
    period = torch.rand(1, 63, 32)
    short, long = branch(period.repeat(1, 1, 12)), branch(period.repeat(1, 1, 24))
    torch.testing.assert_close(short, long, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("inputs", "outputs", "stride"), [(6, 6, 1), (6, 20, 2)])
def test_the_residual_block_of_the_spec(inputs: int, outputs: int, stride: int) -> None:
    """x <- BN(x); out = Conv3(ReLU(BN(Conv3(ReLU(x))))) gated; the shortcut starts from the normalised x."""
    block: Any = ResidualBlock(inputs, outputs, stride).eval()
    _randomise_norms(block)
    x = torch.randn(2, inputs, 9, 11)
    normed = _norm(x, block.norm_in)
    out = fn.conv2d(normed.clamp(min=0), block.conv_1.weight, stride=stride, padding=1)
    out = fn.conv2d(_norm(out, block.norm_mid).clamp(min=0), block.conv_2.weight, padding=1)
    gate = (out.mean((2, 3)) @ block.gate.squeeze.weight.T).clamp(min=0) @ block.gate.excite.weight.T
    out = out / (1 + (-gate).exp())[:, :, None, None]
    if stride == 2:
        normed = fn.conv2d(fn.max_pool2d(normed, 3, 2, 1), block.shortcut[1].weight)
    torch.testing.assert_close(block(x), normed + out, rtol=1e-4, atol=1e-5)


def test_a_gate_by_hand() -> None:
    """Two channels with means 1 and 3 squeezed to 1 * 1 + 2 * 3 = 7, then gates of sigmoid(7) and sigmoid(-7)."""
    gate = SqueezeExcitation(2)
    with torch.no_grad():
        gate.squeeze.weight.copy_(torch.tensor([[1.0, 2.0]]))
        gate.excite.weight.copy_(torch.tensor([[1.0], [-1.0]]))
    x = torch.tensor([[[0.0, 2.0], [3.0, 3.0]]])
    sigmoid = 1 / (1 + np.exp(-7.0))
    expected = torch.tensor([[[0.0, 2 * sigmoid], [3 * (1 - sigmoid)] * 2]])
    torch.testing.assert_close(gate(x), expected.float(), rtol=1e-4, atol=1e-6)


def test_a_gate_squeezes_by_16_and_never_to_nothing() -> None:
    assert SqueezeExcitation(128).squeeze.out_features == 8
    assert SqueezeExcitation(16).squeeze.out_features == SqueezeExcitation(4).squeeze.out_features == 1


def _networks() -> list[nn.Module]:
    return [DftBranch(bins=35_008, embedding_dim=128), StftBranch(bins=63, embedding_dim=128)]


def test_no_convolution_or_linear_layer_has_a_bias() -> None:
    layers = [m for network in _networks() for m in network.modules() if hasattr(m, "weight")]
    biased = [m for m in layers if not isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) and m.bias is not None]
    assert len(layers) > 50
    assert not biased


def test_nothing_but_a_gate_is_bounded() -> None:
    """An embedding that is the end of an unbounded path grows with its input, whatever the gates do."""
    bounded = (nn.Sigmoid, nn.Tanh, nn.Softmax, nn.Hardtanh, nn.ReLU6, nn.Hardsigmoid)
    assert not [m for network in _networks() for m in network.modules() if isinstance(m, bounded)]
    for network, x in zip(_networks(), (torch.rand(1, 35_008), torch.rand(1, 63, 50)), strict=True):
        network.eval()
        assert network(1000 * x).norm() > 50 * network(x).norm()


def test_maps_are_channels_last() -> None:
    """Neighbouring channels lie side by side in memory; the order of torch's default is several times slower on CPU."""
    branch, seen = StftBranch(bins=63, embedding_dim=8), []
    for block in branch.blocks:
        block.register_forward_pre_hook(lambda _m, args: seen.append(args[0].stride(1)))
    branch(torch.rand(2, 63, 50))
    assert seen == [1] * 8


@pytest.mark.parametrize(("bins", "frames"), [(1997, 11), (1997, 23), (500, 19), (63, 11), (63, 37), (63, 300)])
def test_bfloat16_of_narrow_maps_is_near_float32(bins: int, frames: int) -> None:
    """Short clips leave maps one or two frames wide, which some CPUs' bfloat16 convolutions compute wrongly."""
    branch = StftBranch(bins=bins, embedding_dim=32)
    spec_BFN, towards = torch.rand(4, bins, frames), torch.randn(4, 32)
    exact = branch(spec_BFN)
    gradients = torch.autograd.grad((exact * towards).sum(), [block.conv_1.weight for block in branch.blocks])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = branch(spec_BFN)
    seen = torch.autograd.grad((rounded.float() * towards).sum(), [block.conv_1.weight for block in branch.blocks])
    assert (rounded - exact).norm() < 0.1 * exact.norm()
    for ours, theirs in zip(seen, gradients, strict=True):
        assert torch.nn.functional.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0) > 0.8


def test_every_weight_gets_a_gradient() -> None:
    for network, x in zip(_networks(), (torch.rand(3, 35_008), torch.rand(3, 63, 60)), strict=True):
        network(x).square().sum().backward()
        missing = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum()]
        # A gate of one squeezed channel can be shut by its ReLU for a whole small batch.
        assert not [name for name in missing if "squeeze" not in name and "excite" not in name]
