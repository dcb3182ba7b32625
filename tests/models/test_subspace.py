"""The subspace loss (eq. 7) is one sub-cluster AdaCos per branch, added up."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.losses.sub_cluster_adacos import SubClusterAdaCos
from models.losses.subspace import SubspaceLoss


def _loss(classes: int, branches: int, dim: int, sub_clusters: int = 2, seed: int = 0) -> SubspaceLoss:
    return SubspaceLoss(
        classes=classes,
        branches=branches,
        embedding_dim=dim,
        sub_clusters=sub_clusters,
        generator=torch.Generator().manual_seed(seed),
    )


def test_two_branches_by_hand() -> None:
    """Cosines of branch 0 are (1, 0, -1), of branch 1 (0, 1, 0); the scale is sqrt(2) ln 2."""
    loss = _loss(3, 2, 2, sub_clusters=1)
    with torch.no_grad():
        for centres_CSD in loss.parameters():
            centres_CSD.copy_(torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]], [[-1.0, 0.0]]]))
    embed_BMD = torch.tensor([[[2.0, 0.0], [0.0, 5.0]]])
    s = math.sqrt(2) * math.log(2)
    first, second = [s, 0, -s], [0, s, 0]
    total = math.log(sum(map(math.exp, first))) + math.log(sum(map(math.exp, second)))
    expected = [total - a - b for a, b in zip(first, second, strict=True)]
    torch.testing.assert_close(loss(embed_BMD), torch.tensor([expected]), rtol=1e-5, atol=1e-6)


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 4), st.integers(2, 5), st.integers(1, 4), st.integers(1, 6))
def test_equals_the_sum_over_heads(clips: int, classes: int, branches: int, dim: int) -> None:
    loss = _loss(classes, branches, dim)
    embed_BMD = torch.randn(clips, branches, dim, generator=torch.Generator().manual_seed(1))
    expected_BC = torch.zeros(clips, classes)
    for m, head in enumerate(loss.heads):
        expected_BC += head(embed_BMD[:, m])
    torch.testing.assert_close(loss(embed_BMD), expected_BC)


def test_one_branch_is_the_plain_loss_with_the_same_centres() -> None:
    single = SubClusterAdaCos(
        classes=4, embedding_dim=6, sub_clusters=3, trainable=True, generator=torch.Generator().manual_seed(5)
    )
    embed_BD = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(_loss(4, 1, 6, 3, seed=5)(embed_BD[:, None]), single(embed_BD), rtol=0, atol=0)


def test_every_branch_has_trainable_centres_of_its_own() -> None:
    loss = _loss(3, 3, 4)
    assert sum(p.numel() for p in loss.parameters()) == 4 * 3 * 2 * 3  # D C S M (paper §3.1.2)
    first_CSD, second_CSD, _ = loss.parameters()
    assert not torch.equal(first_CSD, second_CSD)
    loss(torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)))[:, 0].sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in loss.parameters())


@pytest.mark.parametrize("changed", [0, 1, 2])
def test_a_head_sees_its_own_branch_only(changed: int) -> None:
    embed_BMD = torch.randn(2, 3, 4, requires_grad=True, generator=torch.Generator().manual_seed(0))
    loss = _loss(3, 3, 4)
    grad_BMD = torch.autograd.grad(loss.heads[changed](embed_BMD[:, changed])[:, 0].sum(), embed_BMD)[0]
    assert [bool(grad_BMD[:, m].abs().sum() > 0) for m in range(3)] == [m == changed for m in range(3)]
