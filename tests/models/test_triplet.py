"""Triplet loss (paper eq. 10-12): by hand, at its limits, and with gradients that stay finite."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.losses.triplet import triplet_loss


def test_by_hand() -> None:
    """Distances 5 (3-4-5) and 1, margin 1: 5 - 1 + 1 = 5; then 1 and 5: 1 - 5 + 1 < 0, so 0."""
    anchor, far, near = torch.zeros(1, 2), torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 1.0]])
    assert triplet_loss(anchor, far, near).item() == pytest.approx(5)
    assert triplet_loss(anchor, near, far).item() == 0
    assert triplet_loss(anchor, near, far, margin=6).item() == pytest.approx(2)


def test_equal_embeddings_cost_the_margin_and_their_gradient_is_finite() -> None:
    same = torch.ones(3, 4, requires_grad=True)
    loss_B = triplet_loss(same, same.detach(), same.detach())
    assert loss_B.tolist() == pytest.approx([1, 1, 1])
    loss_B.sum().backward()
    assert same.grad is not None
    assert torch.isfinite(same.grad).all()


def test_gradients_pull_the_positive_and_push_the_negative() -> None:
    anchor, positive, negative = (torch.tensor([[x]], requires_grad=True) for x in (0.0, 2.0, 1.0))
    triplet_loss(anchor, positive, negative).sum().backward()
    assert [t.grad.item() for t in (positive, negative) if t.grad is not None] == pytest.approx([1, -1])


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(1, 6), st.integers(1, 5), st.floats(0.1, 3), st.integers(0, 1000))
def test_a_loop_gives_the_same(clips: int, size: int, margin: float, seed: int) -> None:
    anchor, positive, negative = torch.randn(3, clips, size, generator=torch.Generator().manual_seed(seed))
    expected = [
        max((a - p).norm().item() - (a - n).norm().item() + margin, 0.0)
        for a, p, n in zip(anchor, positive, negative, strict=True)
    ]
    assert triplet_loss(anchor, positive, negative, margin).tolist() == pytest.approx(expected, abs=1e-5)
