"""The fast extractor computes what the plain one does: embeddings, gradients, and a step of training."""

import copy

import pytest
import torch

from models.branches import Branch
from models.extractor import Extractor
from models.networks import SqueezeExcitation
from models.plain import PlainExtractor

SAMPLES = 72_000  # 4.5 s
BRANCHES = (Branch(), Branch(4096, True), Branch(128))


@pytest.fixture(scope="module")
def pair() -> tuple[Extractor, PlainExtractor]:
    torch.manual_seed(0)
    plain = PlainExtractor(branches=BRANCHES, clip_samples=SAMPLES)
    fast = Extractor(branches=BRANCHES, clip_samples=SAMPLES)
    fast.load_state_dict(plain.state_dict())
    return fast, plain


def clips(number: int) -> torch.Tensor:
    return 0.1 * torch.randn(number, SAMPLES, generator=torch.Generator().manual_seed(number))


def test_features_are_torchaudios(pair: tuple[Extractor, PlainExtractor]) -> None:
    for fast, plain in zip(pair[0].features, pair[1].features, strict=True):
        expected = plain(clips(2))
        torch.testing.assert_close(fast(clips(2)), expected, rtol=1e-4, atol=float(1e-6 * expected.abs().max()))


@pytest.mark.parametrize(("autocast", "tolerance"), [(False, 1e-4), (True, 0.1)])
@pytest.mark.parametrize("training", [False, True])
def test_embeddings(
    pair: tuple[Extractor, PlainExtractor],
    training: bool,
    autocast: bool,
    tolerance: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("models.precision.computes_bfloat16", lambda kind: True)
    fast, plain = (copy.deepcopy(model).train(training) for model in pair)
    fast.autocast = autocast
    with torch.no_grad():
        expected, seen = plain(clips(4)), fast(clips(4))
    scale = expected.square().mean(dim=(0, 2), keepdim=True).sqrt()
    assert ((seen - expected) / scale).square().mean().sqrt() < tolerance


def test_gradients(pair: tuple[Extractor, PlainExtractor]) -> None:
    fast, plain = (copy.deepcopy(model).train() for model in pair)
    target = torch.randn(4, 3, 128, generator=torch.Generator().manual_seed(1))
    for model in (fast, plain):
        (model(clips(4)) * target).sum().backward()
    whole = torch.cat([p.grad.flatten() for p in plain.parameters()]).norm()
    for (name, ours), theirs in zip(fast.named_parameters(), plain.parameters(), strict=True):
        error = (ours.grad - theirs.grad).norm()  # scales before a normalisation have no gradient but rounding
        assert error < 2e-2 * theirs.grad.norm() + 1e-5 * whole, (name, float(error), float(theirs.grad.norm()))


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_the_residual_sum_is_differentiated_by_hand_as_autograd_does(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    gate = SqueezeExcitation(32)
    shortcut, x = (torch.randn(3, 32, 5, 7).contiguous(memory_format=layout).requires_grad_() for _ in range(2))
    weight = torch.randn(3, 32, 5, 7)
    inputs = (shortcut, x, gate.squeeze.weight, gate.excite.weight)
    by_hand = torch.autograd.grad((gate.add_gated(shortcut, x) * weight).sum(), inputs)
    expected = torch.autograd.grad(((shortcut + gate(x)) * weight).sum(), inputs)
    torch.testing.assert_close(gate.add_gated(shortcut, x), shortcut + gate(x))
    for ours, theirs in zip(by_hand, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
