"""Anchor, positive and negative (paper eq. 13-15), recomputed clip by clip."""

import pytest
import torch

from models.augment.noise import Noise, add_noise
from models.augment.resize import Resize, apply_resize
from models.augment.triplets import draw_triplets, make_triplets

CLIPS, NOISES = 12, 5


def one_noisy(spec_FN: torch.Tensor, noises: torch.Tensor, noise: Noise, b: int) -> torch.Tensor:
    return add_noise(spec_FN[None], noises, Noise(noise.source_B[b : b + 1], noise.snr_db_B[b : b + 1]))[0]


def test_each_part_is_what_its_equation_says() -> None:
    generator = torch.Generator().manual_seed(1)
    spec, noises = torch.randn(CLIPS, 9, 11, generator=generator), torch.randn(NOISES, 9, 11, generator=generator)
    draw = draw_triplets(CLIPS, NOISES, generator)
    anchor, positive, negative = make_triplets(spec, noises, draw)
    for b in range(CLIPS):
        noisy = one_noisy(spec[b], noises, draw.anchor_noise, b)
        assert torch.allclose(anchor[b], noisy if draw.noisy_anchor_B[b] else spec[b])
        assert torch.allclose(positive[b], one_noisy(spec[b], noises, draw.positive_noise, b))
        factors = Resize(draw.resize.frequency_B[b : b + 1], draw.resize.time_B[b : b + 1])
        other = apply_resize(spec[b : b + 1], factors)[0] if draw.resized_B[b] else spec[draw.partner_B[b]]
        expected = one_noisy(other, noises, draw.negative_noise, b) if draw.noisy_negative_B[b] else other
        assert torch.allclose(negative[b], expected, atol=1e-5)


def test_the_input_is_left_alone_and_noise_is_drawn_for_each_part() -> None:
    generator = torch.Generator().manual_seed(2)
    spec, noises = torch.randn(CLIPS, 4, 5, generator=generator), torch.randn(NOISES, 4, 5, generator=generator)
    kept = spec.clone()
    draw = draw_triplets(CLIPS, NOISES, generator)
    make_triplets(spec, noises, draw)
    assert torch.equal(spec, kept)
    ratios = [part.snr_db_B for part in (draw.anchor_noise, draw.positive_noise, draw.negative_noise)]
    assert not torch.equal(ratios[0], ratios[1])
    assert not torch.equal(ratios[1], ratios[2])


def test_kinds_have_equal_chance_and_the_partner_is_another_clip() -> None:
    draw = draw_triplets(4000, 3, torch.Generator().manual_seed(0))
    assert draw.noisy_anchor_B.float().mean().item() == pytest.approx(0.5, abs=0.03)
    kinds = 2 * draw.resized_B.long() + draw.noisy_negative_B.long()
    assert kinds.bincount().tolist() == pytest.approx([1000] * 4, rel=0.1)
    assert (draw.partner_B != torch.arange(4000)).all()
    assert set(draw_triplets(2, 1, torch.Generator()).partner_B.tolist()) == {0, 1}


def test_the_seed_decides_and_a_single_clip_has_no_partner() -> None:
    first, again = (draw_triplets(8, 3, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first.partner_B, again.partner_B)
    assert torch.equal(first.negative_noise.snr_db_B, again.negative_noise.snr_db_B)
    with pytest.raises(ValueError, match="at least two clips"):
        draw_triplets(1, 3, torch.Generator())


def test_limits_are_passed_on() -> None:
    draw = draw_triplets(50, 3, torch.Generator(), min_snr_db=20, max_snr_db=21, axes="time")
    assert all((part.snr_db_B >= 20).all() for part in (draw.anchor_noise, draw.positive_noise, draw.negative_noise))
    assert set(draw.resize.frequency_B.tolist()) == {1.0}
