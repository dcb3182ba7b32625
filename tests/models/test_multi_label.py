"""Eq. 16: the cheapest label of a clip, also where two clips with label sets were mixed."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.losses.multi_label import Mix, mixed_loss, smallest_loss, unmixed


def _label_sets(clips: int, classes: int, generator: torch.Generator) -> Tensor:
    """Random label sets with at least one label each."""
    labels_BC = torch.rand(clips, classes, generator=generator) < 0.4
    labels_BC[torch.arange(clips), torch.randint(classes, (clips,), generator=generator)] = True
    return labels_BC


def _brute_force(nll_BC: Tensor, labels_BC: Tensor, mix: Mix) -> list[float]:
    """The minimum over all pairs of labels of the loss of the explicit soft label vector."""
    smallest = []
    for b in range(len(nll_BC)):
        partner, keep = int(mix.partner_B[b]), mix.keep_B[b]
        values = []
        for own, other in itertools.product(labels_BC[b].nonzero(), labels_BC[partner].nonzero()):
            target_C = torch.zeros(nll_BC.shape[1])
            target_C[own] += keep
            target_C[other] += 1 - keep
            values.append(float((target_C * nll_BC[b]).sum()))
        smallest.append(min(values))
    return smallest


def test_by_hand() -> None:
    """Clip 0 has labels {0, 2} and keeps 0.25 of itself, clip 1 has label {1}: 0.25 * min(4, 2) + 0.75 * 3 = 2.75."""
    nll_BC = torch.tensor([[4.0, 3.0, 2.0], [1.0, 5.0, 0.5]])
    labels_BC = torch.tensor([[True, False, True], [False, True, False]])
    mix = Mix(torch.tensor([1, 0]), torch.tensor([0.25, 0.5]))
    assert smallest_loss(nll_BC, labels_BC).tolist() == [2.0, 5.0]
    assert mixed_loss(nll_BC, labels_BC, mix).tolist() == [2.75, 0.5 * 5 + 0.5 * 0.5]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 999))
def test_equals_the_minimum_over_all_pairs_of_labels(clips: int, classes: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    nll_BC = 10 * torch.rand(clips, classes, generator=generator)
    labels_BC = _label_sets(clips, classes, generator)
    mix = Mix(torch.randperm(clips, generator=generator), torch.rand(clips, generator=generator))
    by_hand = torch.tensor(_brute_force(nll_BC, labels_BC, mix))
    torch.testing.assert_close(mixed_loss(nll_BC, labels_BC, mix), by_hand, rtol=1e-5, atol=1e-5)


def test_one_label_reduces_exactly_to_the_plain_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    nll_BC, target_B = 10 * torch.rand(6, 5, generator=generator), torch.randint(5, (6,), generator=generator)
    labels_BC = torch.nn.functional.one_hot(target_B, 5).bool()
    plain_B = nll_BC[torch.arange(6), target_B]
    assert torch.equal(smallest_loss(nll_BC, labels_BC), plain_B)
    assert torch.equal(mixed_loss(nll_BC, labels_BC, unmixed(6)), plain_B)


@pytest.mark.parametrize("keep", [0.0, 1.0])
def test_lambda_of_zero_is_the_partner_and_of_one_the_clip_itself(keep: float) -> None:
    generator = torch.Generator().manual_seed(1)
    nll_BC, labels_BC = torch.rand(4, 3, generator=generator), _label_sets(4, 3, generator)
    partner_B = torch.tensor([2, 3, 1, 0])
    expected_B = smallest_loss(nll_BC, labels_BC if keep else labels_BC[partner_B])
    assert torch.equal(mixed_loss(nll_BC, labels_BC, Mix(partner_B, torch.full((4,), keep))), expected_B)


def test_more_labels_never_cost_more() -> None:
    generator = torch.Generator().manual_seed(2)
    nll_BC, labels_BC = torch.rand(50, 6, generator=generator), _label_sets(50, 6, generator)
    wider_BC = labels_BC | _label_sets(50, 6, generator)
    assert (smallest_loss(nll_BC, wider_BC) <= smallest_loss(nll_BC, labels_BC)).all()


def test_only_the_chosen_label_gets_a_gradient() -> None:
    nll_BC = torch.tensor([[4.0, 1.0, 2.0]], requires_grad=True)
    (grad_BC,) = torch.autograd.grad(smallest_loss(nll_BC, torch.tensor([[True, False, True]])).sum(), nll_BC)
    assert grad_BC.tolist() == [[0.0, 0.0, 1.0]]


def test_a_clip_without_a_label_is_infinitely_wrong_and_never_free() -> None:
    assert smallest_loss(torch.ones(1, 3), torch.zeros(1, 3, dtype=torch.bool)).isinf().all()
