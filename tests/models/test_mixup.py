"""Mixup (eq. 2 and 3): the weighted sum by hand, its limits, and the distribution of its draws."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.augment.mixup import apply_mixup, draw_mixup
from models.losses.multi_label import Mix, unmixed


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_by_hand() -> None:
    wave_BT = torch.tensor([[1.0, 2.0], [3.0, -4.0]])
    mixed_BT = apply_mixup(wave_BT, Mix(torch.tensor([1, 0]), torch.tensor([0.75, 0.5])))
    assert mixed_BT.tolist() == [[1.5, 0.5], [2.0, -1.0]]


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 6), st.integers(1, 20), st.integers(0, 99))
def test_equals_eq_2_sample_by_sample(clips: int, samples: int, seed: int) -> None:
    wave_BT = torch.randn(clips, samples, generator=_generator(seed))
    mix = draw_mixup(clips, 0.7, _generator(seed))
    mixed_BT = apply_mixup(wave_BT, mix)
    for b in range(clips):
        keep, partner = float(mix.keep_B[b]), int(mix.partner_B[b])
        for t in range(samples):
            by_hand = keep * float(wave_BT[b, t]) + (1 - keep) * float(wave_BT[partner, t])
            assert mixed_BT[b, t].item() == pytest.approx(by_hand, abs=1e-5)


@pytest.mark.parametrize("keep", [0.0, 1.0])
def test_lambda_of_zero_is_exactly_the_partner_and_of_one_the_clip(keep: float) -> None:
    wave_BT, partner_B = torch.randn(4, 50, generator=_generator()), torch.tensor([1, 2, 3, 0])
    expected_BT = wave_BT if keep else wave_BT[partner_B]
    assert torch.equal(apply_mixup(wave_BT, Mix(partner_B, torch.full((4,), keep))), expected_BT)


def test_the_input_is_not_written_to() -> None:
    wave_BT = torch.randn(3, 5, generator=_generator())
    before_BT = wave_BT.clone()
    apply_mixup(wave_BT, draw_mixup(3, 1.0, _generator()))
    assert torch.equal(wave_BT, before_BT)


def test_probability_zero_leaves_every_clip_bit_for_bit() -> None:
    wave_BT = torch.randn(8, 30, generator=_generator())
    mix = draw_mixup(8, 0.0, _generator())
    assert torch.equal(mix.keep_B, unmixed(8).keep_B)
    assert torch.equal(apply_mixup(wave_BT, mix), wave_BT)


def test_draws_follow_the_probability_and_a_uniform_share() -> None:
    clips = 20_000
    mix = draw_mixup(clips, 0.5, _generator())
    mixed = mix.keep_B < 1
    assert mixed.float().mean().item() == pytest.approx(0.5, abs=0.02)
    shares = mix.keep_B[mixed].sort().values
    gap = (shares - torch.linspace(0, 1, len(shares))).abs().max().item()
    assert gap < 1.63 / len(shares) ** 0.5  # Kolmogorov-Smirnov at 1 %
    assert (draw_mixup(clips, 1.0, _generator()).keep_B < 1).all()


def test_partners_are_one_permutation_of_the_batch() -> None:
    assert draw_mixup(64, 0.5, _generator()).partner_B.sort().values.tolist() == list(range(64))


def test_the_same_generator_seed_gives_the_same_draw_whatever_the_global_one() -> None:
    torch.manual_seed(1)
    first = draw_mixup(16, 0.5, _generator(7))
    torch.manual_seed(2)
    second = draw_mixup(16, 0.5, _generator(7))
    other = draw_mixup(16, 0.5, _generator(8))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first.keep_B, other.keep_B)
