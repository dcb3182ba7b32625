"""Resize: by hand, the identity at factor 1, zeros above, tiles behind, crops beyond."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.augment.resize import Resize, apply_resize, draw_resize


def resized(spec: torch.Tensor, frequency: float, time: float) -> torch.Tensor:
    return apply_resize(spec[None], Resize(torch.tensor([frequency]), torch.tensor([time])))[0]


def test_stretched_by_hand() -> None:
    """Twice as long: output i shows input (i + 0.5) / 2 - 0.5, which is -0.25, 0.25, 0.75, 1.25 of 0, 10, 20, 30."""
    row = torch.tensor([[0.0, 10.0, 20.0, 30.0]])
    assert resized(row, 1, 2)[0].tolist() == pytest.approx([0, 2.5, 7.5, 12.5], abs=1e-4)
    assert resized(row.T, 2, 1)[:, 0].tolist() == pytest.approx([0, 2.5, 7.5, 12.5], abs=1e-4)


def test_shrunk_by_hand() -> None:
    """Half as long: the means of pairs, tiled in time, and zeros above in frequency."""
    row = torch.tensor([[0.0, 10.0, 20.0, 40.0]])
    assert resized(row, 1, 0.5)[0].tolist() == pytest.approx([5, 30, 5, 30], abs=1e-4)
    assert resized(row.T, 0.5, 1)[:, 0].tolist() == pytest.approx([5, 30, 0, 0], abs=1e-4)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(2, 30), st.integers(2, 30), st.integers(0, 1000))
def test_factor_one_is_the_identity(bins: int, frames: int, seed: int) -> None:
    spec = torch.randn(bins, frames, generator=torch.Generator().manual_seed(seed))
    assert torch.allclose(resized(spec, 1, 1), spec, atol=1e-4)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(4, 24), st.integers(4, 24), st.integers(0, 10_000))
def test_a_loop_gives_the_same(bins: int, frames: int, seed: int) -> None:
    """Interpolation bin by bin and frame by frame, with clips of their own factors in one batch."""
    generator = torch.Generator().manual_seed(seed)
    spec_BFN = torch.rand(3, bins, frames, generator=generator)
    drawn = draw_resize(3, generator)
    got = apply_resize(spec_BFN, drawn)
    for b in range(3):
        scale_f, scale_t = drawn.frequency_B[b].item(), drawn.time_B[b].item()
        filled = max(1, round(frames * scale_t))
        for f in range(bins):
            for t in range(frames):
                y, x = (f + 0.5) / scale_f, (t % filled + 0.5) / scale_t
                value = at(spec_BFN[b], y - 0.5, x - 0.5) if y < bins else 0.0
                assert got[b, f, t].item() == pytest.approx(value, abs=1e-3), (b, f, t)


def at(spec: torch.Tensor, y: float, x: float) -> float:
    """Bilinear between cell centres, the edge cells continued."""
    y, x = (min(max(v, 0), n - 1) for v, n in zip((y, x), spec.shape, strict=True))
    f, t = int(y), int(x)
    g, u = min(f + 1, len(spec) - 1), min(t + 1, spec.shape[1] - 1)
    low = spec[f, t] * (1 - x + t) + spec[f, u] * (x - t)
    high = spec[g, t] * (1 - x + t) + spec[g, u] * (x - t)
    return float(low * (1 - y + f) + high * (y - f))


def test_factors_come_from_both_ranges_with_equal_chance() -> None:
    drawn = draw_resize(4000, torch.Generator().manual_seed(0))
    factor = drawn.time_B
    assert torch.equal(factor, drawn.frequency_B)
    small, large = factor[factor < 1], factor[factor > 1]
    assert len(small) + len(large) == 4000
    assert len(small) == pytest.approx(2000, rel=0.05)
    assert (small.min() >= 0.5, small.max() < 0.8, large.min() >= 1.2, large.max() < 1.5) == (True,) * 4
    assert small.mean().item() == pytest.approx(0.65, abs=0.01)


def test_one_axis_alone() -> None:
    generator = torch.Generator()
    assert set(draw_resize(9, generator, "time").frequency_B.tolist()) == {1.0}
    assert set(draw_resize(9, generator, "frequency").time_B.tolist()) == {1.0}
