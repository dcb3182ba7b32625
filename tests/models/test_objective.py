"""The whole loss against a minimum over explicit label vectors, head by head in plain loops."""

import itertools
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as fn

from models.augment.cutmix import draw_cutmix
from models.augment.mixup import draw_mixup
from models.losses.featex import Exchange, draw_exchange
from models.losses.multi_label import Mix, unmixed
from models.losses.objective import Objective
from models.losses.sub_cluster_adacos import SubClusterAdaCos

Auxiliary = Literal["subspace", "featex", "none"]
CLASSES, DIM = 4, 3


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _objective(auxiliary: Auxiliary, branches: int = 2, adaptive_scale: bool = False, seed: int = 3) -> Objective:
    return Objective(
        classes=CLASSES,
        branches=branches,
        embedding_dim=DIM,
        sub_clusters=2,
        auxiliary=auxiliary,
        adaptive_scale=adaptive_scale,
        generator=_generator(seed),
    )


def _embeddings(clips: int, branches: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(clips, branches, DIM, generator=_generator(seed))


def _label_sets(clips: int, seed: int = 0) -> Tensor:
    labels_BC = torch.rand(clips, CLASSES, generator=_generator(seed)) < 0.4
    labels_BC[torch.arange(clips), torch.randint(CLASSES, (clips,), generator=_generator(seed))] = True
    return labels_BC


def _mix(kind: str, clips: int, seed: int) -> Mix:
    if kind == "mixup":
        return draw_mixup(clips, 0.8, _generator(seed))
    return draw_cutmix(clips, 100, 0.8, _generator(seed)).mix if kind == "cutmix" else unmixed(clips)


def _mixed_label(mix: Mix, clip: int, own: int, partner: int) -> Tensor:
    """Eq. 3 and 9: the soft label vector of a clip, given the labels chosen for its two origins."""
    one_hot = fn.one_hot(torch.tensor([own, partner]), CLASSES)
    return mix.keep_B[clip] * one_hot[0] + (1 - mix.keep_B[clip]) * one_hot[1]


def _label_pairs(labels_BC: Tensor, mix: Mix, clip: int) -> list[Tensor]:
    """Every label vector that a clip can have."""
    own, partner = labels_BC[clip].nonzero().flatten(), labels_BC[mix.partner_B[clip]].nonzero().flatten()
    return [_mixed_label(mix, clip, int(a), int(b)) for a, b in itertools.product(own, partner)]


def _clip_loss(objective: Objective, embed_BMD: Tensor, clip: int, label_C: Tensor) -> Tensor:
    """Eq. 7 of one clip and one label vector, without FeatEx."""
    loss: Tensor = (label_C * objective.joint(embed_BMD[clip].reshape(1, -1))[0]).sum()
    for m, head in enumerate(objective.subspace.heads if objective.subspace else []):
        loss = loss + (label_C * head(embed_BMD[clip, m][None])[0]).sum()
    return loss


def _exchange_loss(
    objective: Objective, embed_BMD: Tensor, sources: list[int], labels: list[Tensor] | Tensor
) -> Tensor:
    """Eq. 5 and 6 of one clip: a list of labels is an exchange, a single label is an untouched clip."""
    assert objective.featex is not None
    zero_C = torch.zeros(CLASSES)
    branches = len(sources)
    blocks = [labels, *[zero_C] * branches] if isinstance(labels, Tensor) else [zero_C, *(x / branches for x in labels)]
    z_ex = torch.cat([embed_BMD[j, m] for m, j in enumerate(sources)])
    loss: Tensor = (torch.cat(blocks) * objective.featex.head(z_ex[None])[0]).sum()
    return loss


@settings(max_examples=20, deadline=None)
@given(
    auxiliary=st.sampled_from(["subspace", "none"]),
    kind=st.sampled_from(["mixup", "cutmix", "none"]),
    clips=st.integers(1, 4),
    branches=st.integers(1, 3),
    seed=st.integers(0, 999),
)
def test_equals_the_minimum_over_all_pairs(
    auxiliary: Auxiliary, kind: str, clips: int, branches: int, seed: int
) -> None:
    objective, embed_BMD = _objective(auxiliary, branches), _embeddings(clips, branches, seed)
    labels_BC, mix = _label_sets(clips, seed), _mix(kind, clips, seed)
    by_hand = [
        min(_clip_loss(objective, embed_BMD, b, label_C) for label_C in _label_pairs(labels_BC, mix, b))
        for b in range(clips)
    ]
    torch.testing.assert_close(objective(embed_BMD, labels_BC, mix), torch.stack(by_hand), rtol=1e-4, atol=1e-4)


@settings(max_examples=15, deadline=None)
@given(kind=st.sampled_from(["mixup", "cutmix"]), clips=st.integers(1, 4), seed=st.integers(0, 999))
def test_featex_equals_the_minimum_over_explicit_label_vectors(kind: str, clips: int, seed: int) -> None:
    """Up to four labels are free: of the clip, its partner, the clip whose branch it got, and that clip's partner."""
    objective, embed_BMD = _objective("featex"), _embeddings(clips, 2, seed)
    labels_BC, mix = _label_sets(clips, seed), _mix(kind, clips, seed)
    exchange = draw_exchange(clips, 2, 0.5, _generator(seed))
    by_hand = []
    for i in range(clips):
        j = int(exchange.source_BM[i, 1])
        values = []
        for own_C, other_C in itertools.product(_label_pairs(labels_BC, mix, i), _label_pairs(labels_BC, mix, j)):
            if exchange.exchanged_B[i]:
                extra = _exchange_loss(objective, embed_BMD, [i, j], [own_C, other_C])
            else:
                extra = _exchange_loss(objective, embed_BMD, [i, i], own_C)
            values.append(_clip_loss(objective, embed_BMD, i, own_C) + extra)
        by_hand.append(min(values))
    loss_B = objective(embed_BMD, labels_BC, mix, exchange)
    torch.testing.assert_close(loss_B, torch.stack(by_hand), rtol=1e-4, atol=1e-4)


def test_featex_of_three_branches_with_single_labels() -> None:
    objective, embed_BMD = _objective("featex", 3), _embeddings(3, 3)
    labels_BC, mix = torch.eye(CLASSES).bool()[:3], Mix(torch.tensor([1, 2, 0]), torch.tensor([0.3, 0.9, 0.5]))
    sources = [[0, 2, 1], [1, 0, 2], [2, 1, 0]]
    exchange = Exchange(torch.tensor(sources), torch.tensor([True] * 3))
    label_BC = torch.stack([_label_pairs(labels_BC, mix, b)[0] for b in range(3)])
    by_hand = [
        _clip_loss(objective, embed_BMD, b, label_BC[b])
        + _exchange_loss(objective, embed_BMD, sources[b], list(label_BC[sources[b]]))
        for b in range(3)
    ]
    torch.testing.assert_close(objective(embed_BMD, labels_BC, mix, exchange), torch.stack(by_hand))


def test_one_label_is_chosen_for_all_heads_together() -> None:
    """Label 0 is best for the joint head, label 1 for the branch: the sum decides, not each head for itself."""
    objective = _objective("subspace", branches=1)
    assert objective.subspace is not None
    eye = torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0], [-1.0, 0, 0]])
    with torch.no_grad():
        objective.joint.centres_CSD.copy_(eye[:, None].expand(-1, 2, -1))
        next(objective.subspace.parameters()).copy_(eye[[1, 0, 2, 3], None].expand(-1, 2, -1))
    labels_BC = torch.tensor([[True, True, False, False]])
    embed_BMD = torch.tensor([[[1.0, 0.2, 0.0]]])
    joint, branch = objective.joint(embed_BMD[:, 0])[0], objective.subspace(embed_BMD)[0]
    assert joint[:2].argmin() != branch[:2].argmin()
    loss = objective(embed_BMD, labels_BC, unmixed(1))[0]
    torch.testing.assert_close(loss, torch.min(joint[0] + branch[0], joint[1] + branch[1]))
    assert loss > joint[:2].min() + branch[:2].min()


@pytest.mark.parametrize("auxiliary", ["subspace", "none"])
def test_one_label_reduces_exactly_to_the_plain_loss(auxiliary: Auxiliary) -> None:
    objective, embed_BMD = _objective(auxiliary), _embeddings(5)
    target_B = torch.tensor([0, 3, 1, 1, 2])
    nll_BC = objective.joint(embed_BMD.flatten(1))
    if objective.subspace is not None:
        nll_BC = nll_BC + objective.subspace(embed_BMD)
    loss_B = objective(embed_BMD, fn.one_hot(target_B, CLASSES).bool(), unmixed(5))
    assert torch.equal(loss_B, nll_BC[torch.arange(5), target_B])


@pytest.mark.parametrize("auxiliary", ["subspace", "featex", "none"])
def test_gradients_reach_embeddings_and_trainable_centres_but_not_the_fixed_ones(auxiliary: Auxiliary) -> None:
    objective, embed_BMD = _objective(auxiliary), _embeddings(6).requires_grad_()
    exchange = draw_exchange(6, 2, 0.5, _generator())
    objective(embed_BMD, _label_sets(6), _mix("mixup", 6, 0), exchange).mean().backward()
    assert embed_BMD.grad is not None
    assert (embed_BMD.grad.abs().sum(dim=2) > 0).all()
    assert not objective.joint.centres_CSD.requires_grad
    assert "joint.centres_CSD" in objective.state_dict()
    parameters = list(objective.parameters())
    assert len(parameters) == {"subspace": 2, "featex": 1, "none": 0}[auxiliary]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in parameters)


def test_the_same_generator_seed_gives_the_same_centres() -> None:
    first, second, other = (_objective("subspace", seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["joint.centres_CSD"], other["joint.centres_CSD"])


def test_featex_without_an_exchange_is_refused() -> None:
    with pytest.raises(ValueError, match="draw_exchange"):
        _objective("featex")(_embeddings(2), _label_sets(2), unmixed(2))


def test_adaptive_scale_moves_in_training_only_and_uses_mixed_soft_labels() -> None:
    """Every head of the subspace loss adapts to its own branch, the joint one to z_cat."""
    objective, expected = _objective("subspace", adaptive_scale=True), _objective("subspace")
    embed_BMD, labels_BC, mix = _embeddings(5), torch.eye(CLASSES).bool()[[0, 1, 2, 3, 0]], _mix("mixup", 5, 1)
    objective.eval()(embed_BMD, labels_BC, mix)
    assert _scales(objective) == _scales(expected)
    objective.train()(embed_BMD, labels_BC, mix)
    target_BC = torch.stack([_label_pairs(labels_BC, mix, b)[0] for b in range(5)])
    expected.joint.update_scale(embed_BMD.flatten(1), target_BC)
    for m, head in enumerate(_heads(expected)):
        head.update_scale(embed_BMD[:, m], target_BC)
    assert _scales(objective) == pytest.approx(_scales(expected), rel=1e-5)
    assert len(set(_scales(objective))) == 3


def _heads(objective: Objective) -> list[SubClusterAdaCos]:
    assert objective.subspace is not None
    return [head for head in objective.subspace.heads if isinstance(head, SubClusterAdaCos)]


def _scales(objective: Objective) -> list[float]:
    return [objective.joint.scale.item(), *(head.scale.item() for head in _heads(objective))]


@pytest.mark.parametrize("auxiliary", ["subspace", "featex"])
def test_a_fixed_scale_stays_fixed(auxiliary: Auxiliary) -> None:
    objective = _objective(auxiliary).train()
    before = {name: value.clone() for name, value in objective.state_dict().items() if name.endswith("scale")}
    objective(_embeddings(4), _label_sets(4), unmixed(4), draw_exchange(4, 2, 0.5, _generator()))
    assert all(torch.equal(objective.state_dict()[name], value) for name, value in before.items())
