"""The stem of an STFT branch is a normalisation and a strided convolution, in values and in gradients."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as fn

from models.stem import CLIPS_AT_ONCE, normalised_stem, stride_two_stem


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(7, 40), columns=st.integers(7, 40), clips=st.integers(1, 3))
def test_the_rearranged_stem_is_the_strided_convolution(rows: int, columns: int, clips: int) -> None:
    spec_BFN, weight = torch.randn(clips, rows, columns), torch.randn(5, 1, 7, 7, requires_grad=True)
    plain = fn.conv2d(spec_BFN[:, None], weight, stride=2)
    fast = stride_two_stem(spec_BFN, weight)
    assert fast.shape == plain.shape == (clips, 5, (rows - 7) // 2 + 1, (columns - 7) // 2 + 1)
    torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-4)
    towards = torch.randn_like(plain)
    gradients = [torch.autograd.grad((out * towards).sum(), weight)[0] for out in (fast, plain)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-3)


def test_a_stem_value_equals_a_loop() -> None:
    spec_BFN, weight = torch.randn(1, 11, 14), torch.randn(2, 1, 7, 7)
    by_hand = sum(float(weight[1, 0, i, j]) * float(spec_BFN[0, 4 + i, 6 + j]) for i in range(7) for j in range(7))
    assert stride_two_stem(spec_BFN, weight)[0, 1, 2, 3].item() == pytest.approx(by_hand, abs=1e-4)


def _norm(bins: int) -> nn.BatchNorm1d:
    norm = nn.BatchNorm1d(bins)
    for values in (norm.weight, norm.running_var):
        nn.init.uniform_(values, 0.5, 1.5)
    for values in (norm.bias, norm.running_mean):
        nn.init.normal_(values)
    return norm


def _as_layers(spec_BFN: Tensor, norm: nn.BatchNorm1d, weight: Tensor) -> Tensor:
    return fn.conv2d(norm(spec_BFN)[:, None], weight, stride=2)


@settings(max_examples=25, deadline=None)
@given(
    bins=st.integers(7, 30), frames=st.integers(7, 30), clips=st.integers(2, 2 * CLIPS_AT_ONCE + 1), train=st.booleans()
)
def test_values_gradients_and_running_statistics_are_those_of_layers(
    bins: int, frames: int, clips: int, train: bool
) -> None:
    spec_BFN = 3 + torch.rand(clips, frames, bins).transpose(1, 2)  # in memory as features are
    ours = _norm(bins).train(train)
    theirs = copy.deepcopy(ours)
    weight = torch.randn(5, 1, 7, 7, requires_grad=True)
    fast, plain = normalised_stem(spec_BFN, ours, weight), _as_layers(spec_BFN, theirs, weight)
    torch.testing.assert_close(fast, plain, rtol=1e-3, atol=1e-3)
    for name, value in theirs.named_buffers():
        torch.testing.assert_close(ours.get_buffer(name), value)
    towards = torch.randn_like(plain)
    by_hand = torch.autograd.grad((fast * towards).sum(), [weight, ours.weight, ours.bias])
    expected = torch.autograd.grad((plain * towards).sum(), [weight, theirs.weight, theirs.bias])
    for mine, other in zip(by_hand, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-3 * float(other.abs().max()))


def test_gradients_in_bfloat16_are_near_those_of_float32() -> None:
    """Under autocast the weight's gradient rounds as a convolution's would; scales and shifts come from its rows."""
    spec_BFN, norm = torch.rand(16, 63, 200), _norm(63)
    weight = (torch.randn(16, 1, 7, 7) / 7).requires_grad_()
    towards, inputs = torch.randn(16, 16, 29, 97), [weight, norm.weight, norm.bias]
    expected = torch.autograd.grad((_as_layers(spec_BFN, norm, weight) * towards).sum(), inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = normalised_stem(spec_BFN, norm, weight)
    assert out.dtype == torch.bfloat16
    for mine, other in zip(torch.autograd.grad((out * towards).sum(), inputs), expected, strict=True):
        assert mine.dtype == torch.float32
        assert (mine - other).norm() < 0.02 * other.norm()


def test_a_row_that_no_kernel_reaches_gets_no_gradient() -> None:
    """With an even number of bins the last one lies beyond the last position of the kernel."""
    norm, weight = _norm(10), torch.randn(2, 1, 7, 7)
    normalised_stem(torch.rand(3, 10, 9), norm, weight).sum().backward()
    assert norm.weight.grad is not None
    assert norm.bias.grad is not None
    assert norm.weight.grad[9] == norm.bias.grad[9] == 0
    assert norm.bias.grad[0] == pytest.approx(3 * 2 * float(weight[:, 0, 0].sum()), rel=1e-4)
