"""Cutmix (eq. 8 and 9): the mask by loops, its limits, and labels that follow the samples really kept."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.augment.cutmix import Cut, apply_cutmix, draw_cutmix
from models.losses.multi_label import Mix


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _cut(start_B: list[int], length_B: list[int], partner_B: list[int], samples: int) -> Cut:
    length = torch.tensor(length_B)
    return Cut(Mix(torch.tensor(partner_B), length / samples), torch.tensor(start_B), length)


def test_by_hand() -> None:
    wave_BT = torch.tensor([[1.0, 2, 3, 4, 5], [10.0, 20, 30, 40, 50]])
    cut_BT = apply_cutmix(wave_BT, _cut([1, 3], [2, 2], [1, 0], 5))
    assert cut_BT.tolist() == [[10, 2, 3, 40, 50], [1, 2, 3, 40, 50]]


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 6), st.integers(1, 30), st.integers(0, 999))
def test_equals_eq_8_and_labels_count_the_kept_samples(clips: int, samples: int, seed: int) -> None:
    cut = draw_cutmix(clips, samples, 0.8, _generator(seed))
    wave_BT = torch.arange(clips * samples, dtype=torch.float32).view(clips, samples)  # every sample is one of a kind
    cut_BT = apply_cutmix(wave_BT, cut)
    for b in range(clips):
        start, length = int(cut.start_B[b]), int(cut.length_B[b])
        assert 0 <= start <= start + length <= samples
        expected = wave_BT[cut.mix.partner_B[b]].tolist()
        expected[start : start + length] = wave_BT[b, start : start + length].tolist()
        assert cut_BT[b].tolist() == expected
        assert cut.mix.keep_B[b].item() == pytest.approx(length / samples, abs=1e-7)


def test_the_whole_clip_and_the_empty_stretch() -> None:
    wave_BT = torch.randn(2, 9, generator=_generator())
    assert torch.equal(apply_cutmix(wave_BT, _cut([0, 0], [9, 9], [1, 0], 9)), wave_BT)
    for start in (0, 4, 9):
        assert torch.equal(apply_cutmix(wave_BT, _cut([start] * 2, [0, 0], [1, 0], 9)), wave_BT.flip(0))


def test_probability_zero_leaves_every_clip_as_it_is() -> None:
    cut = draw_cutmix(8, 100, 0.0, _generator())
    assert cut.mix.keep_B.tolist() == [1.0] * 8
    assert cut.start_B.tolist() == [0] * 8
    wave_BT = torch.randn(8, 100, generator=_generator())
    assert torch.equal(apply_cutmix(wave_BT, cut), wave_BT)


def test_draws_follow_the_probability_and_a_uniform_share() -> None:
    clips, samples = 20_000, 160_000
    cut = draw_cutmix(clips, samples, 0.75, _generator())
    is_cut = cut.mix.keep_B < 1
    assert is_cut.float().mean().item() == pytest.approx(0.75, abs=0.02)
    shares = cut.mix.keep_B[is_cut].sort().values
    gap = (shares - torch.linspace(0, 1, len(shares))).abs().max().item()
    assert gap < 1.63 / len(shares) ** 0.5  # Kolmogorov-Smirnov at 1 %
    assert cut.mix.keep_B.dtype == torch.float32


def test_every_place_for_a_stretch_is_equally_likely_ends_included() -> None:
    """Three samples: a stretch of one has three places, a stretch of two has two."""
    cut = draw_cutmix(30_000, 3, 1.0, _generator())
    for length, places in ((1, 3), (2, 2), (3, 1)):
        counts = torch.bincount(cut.start_B[cut.length_B == length], minlength=3)
        assert counts[places:].tolist() == [0] * (3 - places)
        torch.testing.assert_close(
            counts[:places] / counts.sum(), torch.full((places,), 1 / places), atol=0.02, rtol=0, check_dtype=False
        )


def test_partners_are_one_permutation_of_the_batch() -> None:
    assert draw_cutmix(64, 10, 0.5, _generator()).mix.partner_B.sort().values.tolist() == list(range(64))


def test_the_same_generator_seed_gives_the_same_draw_whatever_the_global_one() -> None:
    torch.manual_seed(1)
    first = draw_cutmix(16, 1000, 0.75, _generator(7))
    torch.manual_seed(2)
    second = draw_cutmix(16, 1000, 0.75, _generator(7))
    pairs = zip((*first.mix, *first[1:]), (*second.mix, *second[1:]), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(first.start_B, draw_cutmix(16, 1000, 0.75, _generator(8)).start_B)
