"""The whole extractor: its size, its parts, its precision and its repeatability."""

import pytest
import torch
from torch import Tensor

from models.branches import Branch, min_clip_seconds
from models.extractor import Extractor
from models.losses.objective import Objective
from models.losses.subspace import SubspaceLoss
from models.precision import computes_bfloat16

PAPER = (Branch(), Branch(4096, tmn=True), Branch(128, tmn=True))
TEN_SECONDS = 160_000


def _extractor(clip_samples: int = 80_000, *, autocast: bool = False, seed: int = 0) -> Extractor:
    torch.manual_seed(seed)
    return Extractor(branches=PAPER, clip_samples=clip_samples, autocast=autocast)


def _waves(clips: int, samples: int = 80_000) -> Tensor:
    return 0.1 * torch.randn(clips, samples, generator=torch.Generator().manual_seed(1))


def _trainable(*modules: torch.nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters() if p.requires_grad)


def test_the_size_of_the_papers_model_at_148_classes_and_10_s() -> None:
    extractor = _extractor(TEN_SECONDS)
    objective = Objective(classes=148, branches=3, embedding_dim=128, auxiliary="subspace")
    assert _trainable(objective) == 3 * 148 * 16 * 128
    assert _trainable(extractor, objective) == pytest.approx(4.94e6, rel=0.01)
    assert objective.joint.scale.item() == pytest.approx(10.99, abs=0.005)


def test_the_parameters_counted_layer_by_layer() -> None:
    def gate(channels: int) -> int:
        return 2 * channels * (channels // 16)

    def block(inputs: int, outputs: int) -> int:
        shortcut = inputs * outputs if inputs != outputs else 0
        return 2 * inputs + 9 * inputs * outputs + 2 * outputs + 9 * outputs**2 + gate(outputs) + shortcut

    def stft(bins: int, rows: int) -> int:
        blocks = block(16, 16) + sum(block(c, 2 * c) + block(c, c) for c in (16, 32, 64)) + block(128, 128)
        return 2 * bins + 49 * 16 + 2 * 16 + blocks + 2 * 128 * rows + 128 * rows * 128

    convolutions = 128 * (256 + 128 * 64 + 128 * 16) + 3 * gate(128)
    dft = convolutions + 768 * 128 + 4 * 128**2 + 5 * 2 * 128 + 128**2
    extractor = _extractor(TEN_SECONDS)
    assert [_trainable(network) for network in extractor.networks] == [dft, stft(1997, 63), stft(63, 2)]


def test_one_embedding_per_branch_in_float32() -> None:
    embed_BMD = _extractor()(_waves(2))
    assert embed_BMD.shape == (2, 3, 128)
    assert embed_BMD.dtype == torch.float32


def test_branch_m_is_network_m_on_feature_m() -> None:
    extractor, wave_BT = _extractor().eval(), _waves(2)
    with torch.no_grad():
        embed_BMD = extractor(wave_BT)
        for m, (feature, network) in enumerate(zip(extractor.features, extractor.networks, strict=True)):
            torch.testing.assert_close(embed_BMD[:, m], network(feature(wave_BT)))


def test_a_clip_is_embedded_alike_whatever_its_company() -> None:
    extractor, wave_BT = _extractor().eval(), _waves(3)
    with torch.no_grad():
        torch.testing.assert_close(extractor(wave_BT)[1:2], extractor(wave_BT[1:2]), rtol=1e-3, atol=1e-4)


def test_bfloat16_networks_stay_close_to_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within 3 % of the length of each branch's embedding, a few roundings of 2^-8; the result is float32 again."""
    monkeypatch.setattr("models.precision.computes_bfloat16", lambda kind: True)
    exact, fast, wave_BT = _extractor(), _extractor(autocast=True), _waves(8)
    with torch.no_grad():
        exact(wave_BT), fast(wave_BT)  # one step of running statistics
        exact_BMD, fast_BMD = exact.eval()(wave_BT), fast.eval()(wave_BT)
    assert fast_BMD.dtype == torch.float32
    assert not torch.equal(exact_BMD, fast_BMD)
    assert ((exact_BMD - fast_BMD).norm(dim=2) / exact_BMD.norm(dim=2)).max() < 0.03


def test_processors_without_bfloat16_run_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.precision.computes_bfloat16", lambda kind: False)
    exact, asked, wave_BT = _extractor().eval(), _extractor(autocast=True).eval(), _waves(2)
    with torch.no_grad():
        assert torch.equal(exact(wave_BT), asked(wave_BT))


@pytest.mark.parametrize(
    ("capability", "computes"),
    [("amx_bf16", True), ("avx512_bf16", True), ("bf16", True), ("avx512_f", False), ("avx2", False)],
)
def test_a_processor_is_asked_for_its_own_instructions(
    monkeypatch: pytest.MonkeyPatch, capability: str, computes: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "any", capability: True})
    computes_bfloat16.cache_clear()
    try:
        assert computes_bfloat16("cpu") == computes
    finally:
        computes_bfloat16.cache_clear()


def test_spectra_stay_float32_under_autocast() -> None:
    extractor, seen = _extractor(autocast=True).eval(), []
    for feature in extractor.features:
        feature.register_forward_hook(lambda _m, _i, out: seen.append(out.dtype))
    with torch.no_grad():
        extractor(_waves(1))
    assert seen == [torch.float32] * 3


def test_the_same_seed_gives_the_same_embedding_bit_for_bit() -> None:
    wave_BT = _waves(2)
    with torch.no_grad():
        first, second, other = (_extractor(seed=seed).eval()(wave_BT) for seed in (4, 4, 5))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_gradients_reach_every_branch() -> None:
    extractor = _extractor()
    loss = SubspaceLoss(classes=3, branches=3, embedding_dim=128)
    loss(extractor(_waves(2)))[:, 0].sum().backward()
    assert all(network(x).requires_grad for network, x in zip(extractor.networks, _inputs(extractor), strict=True))
    for network in extractor.networks:
        assert sum(p.grad.abs().sum() for p in network.parameters() if p.grad is not None) > 0


def _inputs(extractor: Extractor) -> list[Tensor]:
    return [feature(_waves(2)) for feature in extractor.features]


def test_tmn_makes_a_branch_blind_to_a_stationary_offset() -> None:
    """Two branches, with and without TMN: only the latter sees a constant added to each bin."""
    torch.manual_seed(0)
    extractor = Extractor(branches=(Branch(128, tmn=True), Branch(128)), clip_samples=8000, embedding_dim=4)
    assert [feature.tmn for feature in extractor.features] == [True, False]
    means = [feature(_waves(1, 8000)).mean(dim=2).abs().max().item() for feature in extractor.features]
    assert means[0] < 1e-5 < 0.01 < means[1]


def test_the_shortest_clip_of_a_dft_branch_works_and_a_shorter_one_does_not() -> None:
    samples = round(min_clip_seconds(Branch()) * 16_000)
    assert samples == 2 * (35_008 - 1)
    one_branch = (Branch(),)
    assert Extractor(branches=one_branch, clip_samples=samples).eval()(_waves(1, samples)).shape == (1, 1, 128)
    with pytest.raises(ValueError, match="too few"):
        Extractor(branches=one_branch, clip_samples=samples - 2)
