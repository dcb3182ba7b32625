"""Sub-cluster AdaCos against the softmax written out in float64 loops, its limiting cases and its adaptive scale."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as fn

from models.losses.sub_cluster_adacos import SubClusterAdaCos


def _loss(classes: int, dim: int, sub_clusters: int, *, trainable: bool = True, seed: int = 0) -> SubClusterAdaCos:
    generator = torch.Generator().manual_seed(seed)
    return SubClusterAdaCos(
        classes=classes, embedding_dim=dim, sub_clusters=sub_clusters, trainable=trainable, generator=generator
    )


def _with_centres(centres_CSD: Sequence[Any], scale: float) -> SubClusterAdaCos:
    """A loss whose centres and scale are given by hand."""
    centres = torch.tensor(centres_CSD, dtype=torch.float32)
    loss = _loss(centres.shape[0], centres.shape[2], centres.shape[1], trainable=False)
    loss.centres_CSD.copy_(centres)
    loss.scale.fill_(scale)
    return loss


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(sum(a * b) / math.sqrt(sum(a * a)) / math.sqrt(sum(b * b)))


def _nll_by_hand(embed_D: Tensor, centres_CSD: Tensor, scale: float) -> list[float]:
    """-log of the summed softmax, term by term in float64."""
    z, centres = embed_D.double().numpy(), centres_CSD.detach().double().numpy()
    exps = [[math.exp(scale * _cosine(z, w)) for w in of_class] for of_class in centres]
    total = sum(sum(row) for row in exps)
    return [-math.log(sum(row) / total) for row in exps]


def test_two_classes_of_two_centres_by_hand() -> None:
    """z = (3, 0); cosines are (1, 0) for class 0 and (-1, 0) for class 1; the scale is 2."""
    loss = _with_centres([[[5, 0], [0, 2]], [[-1, 0], [0, -7]]], scale=2.0)
    own, other = math.exp(2) + 1, math.exp(-2) + 1
    expected = [math.log((own + other) / own), math.log((own + other) / other)]
    torch.testing.assert_close(loss(torch.tensor([[3.0, 0.0]])), torch.tensor([expected]), rtol=1e-6, atol=0)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 5), st.integers(2, 6), st.integers(1, 8), st.integers(1, 4), st.integers(0, 99))
def test_equals_the_softmax_written_out(clips: int, classes: int, dim: int, sub_clusters: int, seed: int) -> None:
    if classes * sub_clusters < 3:
        return
    loss = _loss(classes, dim, sub_clusters, seed=seed)
    embed_BD = torch.randn(clips, dim, generator=torch.Generator().manual_seed(seed + 1))
    nll_BC = loss(embed_BD)
    assert nll_BC.shape == (clips, classes)
    assert nll_BC.min() >= 0
    by_hand = [_nll_by_hand(z, loss.centres_CSD, loss.scale.item()) for z in embed_BD]
    torch.testing.assert_close(nll_BC, torch.tensor(by_hand), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close((-nll_BC).exp().sum(dim=1), torch.ones(clips), rtol=1e-4, atol=0)


def test_one_sub_cluster_is_the_plain_softmax_over_cosines() -> None:
    loss = _loss(7, 5, 1)
    embed_BD = torch.randn(4, 5, generator=torch.Generator().manual_seed(1))
    cos_BC = fn.cosine_similarity(embed_BD[:, None], loss.centres_CSD[None, :, 0], dim=2)
    target_B = torch.tensor([0, 3, 6, 3])
    expected = fn.cross_entropy(loss.scale * cos_BC, target_B, reduction="none")
    torch.testing.assert_close(loss(embed_BD)[torch.arange(4), target_B], expected, rtol=1e-5, atol=1e-6)


def test_copies_of_one_centre_act_like_one_centre() -> None:
    single = _with_centres([[[1, 0]], [[0, 1]], [[-1, 1]]], scale=3.0)
    double = _with_centres([[[1, 0]] * 2, [[0, 1]] * 2, [[-1, 1]] * 2], scale=3.0)
    embed_BD = torch.tensor([[0.3, -2.0], [1.0, 1.0]])
    torch.testing.assert_close(single(embed_BD), double(embed_BD))


def test_one_class_costs_nothing() -> None:
    assert _loss(1, 4, 3)(torch.randn(5, 4)).abs().max() == 0


def test_neither_the_length_of_an_embedding_nor_of_a_centre_counts() -> None:
    loss = _loss(4, 6, 3, trainable=False)
    embed_BD = torch.randn(5, 6, generator=torch.Generator().manual_seed(2))
    before_BC = loss(embed_BD)
    loss.centres_CSD.mul_(7.0)
    torch.testing.assert_close(loss(1e-3 * embed_BD), before_BC, rtol=1e-4, atol=1e-5)


def test_a_silent_embedding_is_equally_far_from_all() -> None:
    torch.testing.assert_close(_loss(8, 4, 2)(torch.zeros(1, 4)), torch.full((1, 8), math.log(8)))


def test_sub_cluster_k_of_class_c_sits_at_index_c_k() -> None:
    """A reordering would still train, but a checkpoint would mean something else."""
    classes, sub_clusters, dim = 3, 4, 12
    loss = _loss(classes, dim, sub_clusters, trainable=False)
    loss.centres_CSD.copy_(torch.eye(dim).view(classes, sub_clusters, dim))
    for c in range(classes):
        for k in range(sub_clusters):
            embed_BD = fn.one_hot(torch.tensor([c * sub_clusters + k]), dim).float()
            assert loss.cosines(embed_BD)[0].argmax().item() == c * sub_clusters + k
            assert loss.cosines(embed_BD)[0, c, k] == 1
            assert loss(embed_BD).argmin().item() == c


def test_centres_are_drawn_class_by_class() -> None:
    """The draw fills class 0's sub-clusters first, so that a seed means the same centres in every version."""
    rows = torch.nn.init.xavier_uniform_(torch.empty(3 * 4, 5), generator=torch.Generator().manual_seed(6))
    centres_CSD = _loss(3, 5, 4, seed=6).centres_CSD
    for c in range(3):
        for k in range(4):
            assert torch.equal(centres_CSD[c, k], rows[4 * c + k])


def test_the_scale_of_148_classes_is_10_99() -> None:
    scale = _loss(148, 4, 16).scale.item()
    assert scale == pytest.approx(math.sqrt(2) * math.log(148 * 16 - 1), rel=1e-6)
    assert round(scale, 2) == 10.99


@pytest.mark.parametrize("scale", [30.0, 64.0, 500.0])
def test_a_far_class_does_not_underflow(scale: float) -> None:
    """exp(-2 * 64) is zero in float32, so a log of a summed softmax would be infinite."""
    loss = _with_centres([[[1, 0]] * 2, [[-1, 0]] * 2], scale)
    embed_BD = torch.tensor([[2.0, 0.0]], requires_grad=True)
    nll_BC = loss(embed_BD)
    torch.testing.assert_close(nll_BC.detach(), torch.tensor([[0.0, 2 * scale]]), rtol=1e-6, atol=1e-6)
    nll_BC.sum().backward()
    assert embed_BD.grad is not None
    assert embed_BD.grad.isfinite().all()


def test_gradients_reach_trainable_centres_only() -> None:
    for trainable in (True, False):
        loss = _loss(3, 4, 2, trainable=trainable)
        embed_BD = torch.randn(2, 4, requires_grad=True, generator=torch.Generator().manual_seed(0))
        loss(embed_BD)[:, 0].sum().backward()
        assert embed_BD.grad is not None
        assert embed_BD.grad.abs().sum() > 0
        assert [name for name, _ in loss.named_parameters()] == (["centres_CSD"] if trainable else [])
        assert (loss.centres_CSD.grad is not None) == trainable
        assert set(loss.state_dict()) == {"centres_CSD", "scale"}  # fixed centres must survive a resume


def test_gradient_equals_finite_differences() -> None:
    loss = _with_centres([[[1, 0.5], [0, 2]], [[-1, 0.2], [0.3, -7]]], scale=3.0)
    embed_BD = torch.tensor([[0.6, 0.9]], requires_grad=True)
    loss(embed_BD)[0, 1].backward()
    for d in range(2):
        step = 1e-5 * np.eye(2)[d]
        values = [
            _nll_by_hand(torch.tensor(np.array([0.6, 0.9]) + sign * step), loss.centres_CSD, 3.0)[1] for sign in (1, -1)
        ]
        assert embed_BD.grad is not None
        assert embed_BD.grad[0, d].item() == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-3)


def test_centres_are_xavier_uniform_and_follow_the_generator() -> None:
    loss = _loss(50, 8, 16, seed=3)
    bound = math.sqrt(6 / (8 + 50 * 16))
    assert 0.99 * bound < loss.centres_CSD.abs().max().item() <= bound
    assert loss.centres_CSD.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.03)
    assert torch.equal(loss.centres_CSD, _loss(50, 8, 16, seed=3, trainable=False).centres_CSD)
    assert not torch.equal(loss.centres_CSD, _loss(50, 8, 16, seed=4).centres_CSD)


def _scale_by_hand(cos_BCS: Sequence[Any], target_BC: Sequence[Any], scale: float) -> float:
    """(log of the mean over clips of the summed exponentials) / cos(min(pi / 4, median angle to the own class))."""
    mean = sum(math.exp(scale * c) for clip in cos_BCS for row in clip for c in row) / len(cos_BCS)
    angles = [
        sum(y * math.acos(max(row)) for y, row in zip(target_C, clip, strict=True))
        for target_C, clip in zip(target_BC, cos_BCS, strict=True)
    ]
    return math.log(mean) / math.cos(min(math.pi / 4, sorted(angles)[len(angles) // 2]))


@pytest.mark.parametrize("degrees", [[10, 25, 80], [5, 60, 70], [0, 0, 0]])
def test_adaptive_scale_by_hand(degrees: list[float]) -> None:
    """Three clips on the unit circle; the second case is clamped at 45 degrees."""
    centres = [[[1.0, 0.0], [0.0, 1.0]], [[-1.0, 0.0], [0.0, -1.0]]]
    loss = _with_centres(centres, scale=4.0)
    embed = [[math.cos(math.radians(a)), -math.sin(math.radians(a))] for a in degrees]
    cos_BCS = [[[sum(z * w for z, w in zip(e, c, strict=True)) for c in row] for row in centres] for e in embed]
    loss.update_scale(torch.tensor(embed), torch.tensor([[1.0, 0.0]] * 3))
    assert loss.scale.item() == pytest.approx(_scale_by_hand(cos_BCS, [[1, 0]] * 3, 4.0), rel=1e-5)


def test_adaptive_scale_weighs_angles_by_soft_labels() -> None:
    centres = [[[1.0, 0.0]], [[0.8, 0.6]], [[-1.0, 0.0]]]
    loss = _with_centres(centres, scale=2.0)
    target = [[0.75, 0.25, 0.0]]
    loss.update_scale(torch.tensor([[1.0, 0.0]]), torch.tensor(target))
    assert loss.scale.item() == pytest.approx(_scale_by_hand([[[1.0], [0.8], [-1.0]]], target, 2.0), rel=1e-5)


def test_the_scale_stays_fixed_unless_asked() -> None:
    loss = _loss(3, 4, 2)
    before = loss.scale.clone()
    loss.train()(torch.randn(4, 4))
    assert torch.equal(loss.scale, before)


def test_too_few_centres_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 3 centres"):
        _loss(2, 4, 1)
