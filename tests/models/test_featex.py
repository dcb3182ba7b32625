"""FeatEx against eq. 4-6 with the label vectors of (M + 1) * C entries written out."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.losses.featex import Exchange, FeatEx, draw_exchange


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _featex(classes: int, branches: int, dim: int, sub_clusters: int = 2) -> FeatEx:
    return FeatEx(
        classes=classes, branches=branches, embedding_dim=dim, sub_clusters=sub_clusters, generator=_generator(5)
    )


def _cost(cost_BMC: Tensor, label_BC: Tensor, source_BM: Tensor) -> Tensor:
    """What the loss of each clip is when clip j has the label vector label_BC[j]: (B,)."""
    return (cost_BMC * label_BC[source_BM]).sum(dim=(1, 2))


def _soft_labels(clips: int, classes: int) -> Tensor:
    return torch.rand(clips, classes, generator=_generator(9)).softmax(dim=1)


def test_two_branches_equal_eq_4_to_6_with_3c_labels() -> None:
    """z_ex = [z_i^(1), z_j^(2)] and l_ex = [0, 0.5 l_i, 0.5 l_j]; an untouched clip has [l_i, 0, 0]."""
    classes, clips, dim = 3, 4, 5
    featex = _featex(classes, 2, dim)
    embed_BMD = torch.randn(clips, 2, dim, generator=_generator())
    label_BC, zero_C = _soft_labels(clips, classes), torch.zeros(classes)
    partner = [2, 0, 3, 1]
    exchanged = [True, False, True, False]
    exchange = Exchange(torch.tensor([[i, j] for i, j in enumerate(partner)]), torch.tensor(exchanged))
    cost_B = _cost(featex(embed_BMD, exchange), label_BC, exchange.source_BM)
    for i, (j, is_exchanged) in enumerate(zip(partner, exchanged, strict=True)):
        second = j if is_exchanged else i
        z_ex = torch.cat([embed_BMD[i, 0], embed_BMD[second, 1]])
        exchanged_label = torch.cat([zero_C, 0.5 * label_BC[i], 0.5 * label_BC[j]])
        untouched_label = torch.cat([label_BC[i], zero_C, zero_C])
        label = exchanged_label if is_exchanged else untouched_label
        by_hand = sum(y * nll for y, nll in zip(label, featex.head(z_ex[None])[0], strict=True))
        torch.testing.assert_close(cost_B[i], by_hand, rtol=1e-5, atol=1e-6)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 5), st.integers(2, 4), st.integers(1, 4), st.integers(0, 999))
def test_m_branches_equal_label_vectors_written_out(clips: int, branches: int, classes: int, seed: int) -> None:
    dim = 3
    featex = _featex(classes, branches, dim)
    embed_BMD = torch.randn(clips, branches, dim, generator=_generator(seed))
    label_BC = _soft_labels(clips, classes)
    exchange = draw_exchange(clips, branches, 0.5, _generator(seed))
    cost_B = _cost(featex(embed_BMD, exchange), label_BC, exchange.source_BM)
    for i in range(clips):
        is_exchanged = bool(exchange.exchanged_B[i])
        sources = [int(j) for j in exchange.source_BM[i]] if is_exchanged else [i] * branches
        label = torch.zeros((branches + 1) * classes)
        if not is_exchanged:
            label[:classes] = label_BC[i]
        for m, j in enumerate(sources if is_exchanged else []):
            label[(m + 1) * classes : (m + 2) * classes] = label_BC[j] / branches
        assert label.sum().item() == pytest.approx(1.0, abs=1e-5)
        z_ex = torch.cat([embed_BMD[j, m] for m, j in enumerate(sources)])
        by_hand = (label * featex.head(z_ex[None])[0]).sum()
        torch.testing.assert_close(cost_B[i], by_hand, rtol=1e-5, atol=1e-5)


def test_probability_zero_is_the_plain_loss_on_the_first_block() -> None:
    featex, embed_BMD = _featex(3, 2, 4), torch.randn(6, 2, 4, generator=_generator())
    cost_BMC = featex(embed_BMD, draw_exchange(6, 2, 0.0, _generator()))
    assert torch.equal(cost_BMC[:, 0], featex.head(embed_BMD.flatten(1))[:, :3])
    assert cost_BMC[:, 1:].abs().max() == 0


def test_probability_one_exchanges_every_clip() -> None:
    exchange = draw_exchange(50, 3, 1.0, _generator())
    assert exchange.exchanged_B.all()
    cost_BMC = _featex(3, 3, 4)(torch.randn(50, 3, 4, generator=_generator()), exchange)
    assert (cost_BMC > 0).all()


def test_the_first_branch_is_always_the_clips_own_and_others_are_permutations() -> None:
    exchange = draw_exchange(40, 3, 0.5, _generator())
    assert exchange.source_BM[:, 0].tolist() == list(range(40))
    for m in (1, 2):
        assert exchange.source_BM[:, m].sort().values.tolist() == list(range(40))
    assert not torch.equal(exchange.source_BM[:, 1], exchange.source_BM[:, 2])


def test_half_of_the_clips_are_exchanged_at_one_half() -> None:
    assert draw_exchange(20_000, 2, 0.5, _generator()).exchanged_B.float().mean().item() == pytest.approx(0.5, abs=0.02)


def test_a_batch_of_one_clip_can_only_meet_itself() -> None:
    exchange = draw_exchange(1, 3, 1.0, _generator())
    assert exchange.source_BM.tolist() == [[0, 0, 0]]
    assert _featex(2, 3, 4)(torch.ones(1, 3, 4), exchange).isfinite().all()


def test_the_same_generator_seed_gives_the_same_exchange() -> None:
    first, second = draw_exchange(16, 3, 0.5, _generator(1)), draw_exchange(16, 3, 0.5, _generator(1))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first.source_BM, draw_exchange(16, 3, 0.5, _generator(2)).source_BM)


def test_centres_are_trainable_and_as_many_as_the_paper_counts() -> None:
    featex = _featex(classes=7, branches=3, dim=4, sub_clusters=5)
    assert sum(p.numel() for p in featex.parameters()) == 4 * 7 * 5 * 3 * (3 + 1)  # D C S M (M + 1), paper §3.1.2


def test_gradients_reach_the_clips_whose_branches_were_taken() -> None:
    """Clip 0 is made of its own first branch and clip 1's second; clip 0's second branch is not looked at."""
    embed_BMD = torch.randn(2, 2, 4, requires_grad=True, generator=_generator())
    exchange = Exchange(torch.tensor([[0, 1], [1, 0]]), torch.tensor([True, True]))
    _featex(3, 2, 4)(embed_BMD, exchange)[0].sum().backward()
    assert embed_BMD.grad is not None
    touched_BM = embed_BMD.grad.abs().sum(dim=2) > 0
    assert touched_BM.tolist() == [[True, False], [False, True]]
