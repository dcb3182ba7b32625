"""Noise at a signal-to-noise ratio: by hand, silent parts, and the ratio that is really reached."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.augment.noise import Noise, add_noise, draw_noise


def test_by_hand() -> None:
    """Power 4 against power 1 at 0 dB: the noise is doubled; at 20 dB it is a tenth of that."""
    spec, noises = torch.full((2, 1, 2), 2.0), torch.stack([torch.ones(1, 2), torch.tensor([[9.0, 9.0]])])
    drawn = Noise(torch.tensor([0, 0]), torch.tensor([0.0, 20.0]))
    assert add_noise(spec, noises, drawn)[:, 0, 0].tolist() == pytest.approx([4, 2.2])
    louder = Noise(torch.tensor([0, 1]), torch.tensor([0.0, 0.0]))  # the noise's own level does not matter
    assert add_noise(spec, noises, louder)[:, 0, 0].tolist() == pytest.approx([4, 4])


def test_silence_stays_what_it_is() -> None:
    drawn = Noise(torch.tensor([0]), torch.tensor([0.0]))
    spec = torch.randn(1, 3, 4)
    assert torch.equal(add_noise(spec, torch.zeros(1, 3, 4), drawn), spec)
    assert torch.equal(add_noise(torch.zeros(1, 3, 4), spec, drawn), torch.zeros(1, 3, 4))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 1000))
def test_the_ratio_is_reached(clips: int, noises: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    spec = 10 * torch.randn(clips, 6, 7, generator=generator)
    noise_PFN = 0.1 * torch.randn(noises, 6, 7, generator=generator)
    drawn = draw_noise(clips, noises, generator)
    added = add_noise(spec, noise_PFN, drawn) - spec
    ratio_db = 10 * torch.log10(spec.square().mean(dim=(1, 2)) / added.square().mean(dim=(1, 2)))
    assert ratio_db.tolist() == pytest.approx(drawn.snr_db_B.tolist(), abs=1e-2)
    for b, p in enumerate(drawn.source_B.tolist()):
        cosine = torch.nn.functional.cosine_similarity(added[b].flatten(), noise_PFN[p].flatten(), dim=0)
        assert cosine.item() == pytest.approx(1, abs=1e-3)  # of that clip and no other


def test_draws_fill_their_range_and_follow_the_seed() -> None:
    drawn = draw_noise(4000, 7, torch.Generator().manual_seed(3))
    assert (drawn.snr_db_B >= -5).all()
    assert (drawn.snr_db_B < 5).all()
    assert drawn.snr_db_B.mean().item() == pytest.approx(0, abs=0.2)
    assert drawn.source_B.bincount().tolist() == pytest.approx([4000 / 7] * 7, rel=0.2)
    again = draw_noise(4000, 7, torch.Generator().manual_seed(3))
    assert torch.equal(drawn.snr_db_B, again.snr_db_B)
    narrow = draw_noise(50, 1, torch.Generator(), min_snr_db=10, max_snr_db=10)
    assert set(narrow.snr_db_B.tolist()) == {10.0}
