"""g_attr: sizes by the spec, its feature without the steady part, and that it learns to ignore noise."""

import pytest
import torch

from models.attribute_encoder import AttributeEncoder
from models.augment.triplets import draw_triplets, make_triplets
from models.losses.triplet import triplet_loss


def test_sizes() -> None:
    encoder = AttributeEncoder().eval()
    wave_BT = torch.randn(2, 16000, generator=torch.Generator().manual_seed(0))
    spec_BFN = encoder.spectrogram(wave_BT)
    assert spec_BFN.shape == (2, 500, 16000 // 512 + 1)  # 200 Hz to 8 kHz of a 1024-point DFT
    assert encoder(wave_BT).shape == (2, 128)
    assert encoder(wave_BT).dtype == torch.float32
    assert torch.equal(encoder(wave_BT), encoder.embed(spec_BFN))


def test_the_steady_part_is_taken_out_unless_asked_for() -> None:
    wave_BT = torch.sin(2 * torch.pi * 1000 * torch.arange(32000) / 16000)[None]
    without = AttributeEncoder().spectrogram(wave_BT)
    assert without.mean(dim=2).abs().max().item() < 1e-4
    kept = AttributeEncoder(tmn=False).spectrogram(wave_BT)
    assert kept.mean(dim=2).max().item() > 1


def test_bfloat16_is_near_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.precision.computes_bfloat16", lambda kind: True)
    torch.manual_seed(0)
    exact = AttributeEncoder().eval()
    fast = AttributeEncoder(autocast=True).eval()
    fast.load_state_dict(exact.state_dict())
    spec_BFN = torch.rand(3, 500, 40, generator=torch.Generator().manual_seed(1))
    exact_BD, fast_BD = exact.embed(spec_BFN), fast.embed(spec_BFN)
    assert not torch.equal(exact_BD, fast_BD)
    assert torch.nn.functional.cosine_similarity(exact_BD, fast_BD).min().item() > 0.99


def test_it_learns_to_tell_clips_apart_in_weak_noise() -> None:
    torch.manual_seed(0)
    encoder, generator = AttributeEncoder(n_fft=256, embedding_dim=16), torch.Generator().manual_seed(0)
    spec_BFN = torch.rand(8, 125, 40, generator=generator)
    optimiser, losses = torch.optim.AdamW(encoder.parameters(), lr=1e-3), []
    for _ in range(12):
        draw = draw_triplets(8, 8, generator, min_snr_db=10, max_snr_db=20)
        parts = make_triplets(spec_BFN, torch.rand(8, 125, 40, generator=generator), draw)
        loss = triplet_loss(*encoder.embed(torch.cat(parts)).chunk(3)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[-3:]) < 0.5 * sum(losses[:3])


def test_another_size_of_dft_has_its_own_bins() -> None:
    assert AttributeEncoder(n_fft=512).feature.bins == 250
    with pytest.raises(ValueError, match="n_fft"):
        AttributeEncoder(n_fft=15)
