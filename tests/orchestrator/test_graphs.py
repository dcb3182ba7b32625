"""CUDA graphs, as far as a CPU shows: what is replayed, what is not, and that recording leaves no trace."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.branches import Branch
from models.extractor import Extractor
from orchestrator.data.packing import pack
from orchestrator.data.waves import WaveBank
from orchestrator.devices import graphs_note
from orchestrator.errors import TrainingError
from orchestrator.graphs import Graphed
from orchestrator.recipes import ExtractorRecipe, StftBranchConfig
from orchestrator.trainees import extractor
from orchestrator.trainees.extractor import ExtractorTrainee, TrainingSet

CLIPS, SAMPLES = 4, 4000


def model() -> Extractor:
    torch.manual_seed(0)
    return Extractor(branches=[Branch(256), Branch(128, True)], clip_samples=SAMPLES, embedding_dim=8, autocast=True)


class Recorder:
    """Warms up as `torch.cuda.make_graphed_callables` does, and counts replays."""

    def __init__(self) -> None:
        self.replays = 0

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> Callable[..., Tensor]:
        assert not torch.is_autocast_enabled("cpu")
        for _ in range(3):
            out = module(*inputs)
            torch.autograd.grad(out, tuple(module.parameters()), torch.empty_like(out))
            torch.rand(1)

        def replay(*given: Tensor) -> Tensor:
            assert [x.shape for x in given] == [x.shape for x in inputs]
            self.replays += 1
            return module(*given)

        return replay


def test_recording_leaves_weights_statistics_chance_and_names_as_they_were() -> None:
    one = model()
    before = {name: tensor.clone() for name, tensor in one.state_dict().items()}
    chance = torch.get_rng_state()
    Graphed(one, CLIPS, SAMPLES, Recorder())
    after = one.state_dict()
    assert list(after) == list(before)
    for name, tensor in after.items():
        assert torch.equal(tensor, before[name]), name
    assert all(parameter.grad is None for parameter in one.parameters())
    assert torch.equal(torch.get_rng_state(), chance)


def test_full_batches_in_training_are_replayed_and_nothing_else() -> None:
    one, recorder = model(), Recorder()
    graphed = Graphed(one, CLIPS, SAMPLES, recorder)
    for clips, training, replays in ((4, True, 1), (3, True, 1), (5, True, 1), (4, False, 1), (4, True, 2)):
        one.train(training)
        assert graphed(torch.randn(clips, SAMPLES)).shape == (clips, 2, 8)
        assert recorder.replays == replays


def test_what_cannot_be_recorded_says_how_to_do_without() -> None:
    def capture(module: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing\nlong explanation")

    with pytest.raises(TrainingError, match=r"capturing; set cluster\.cuda_graphs=false"):
        Graphed(model(), CLIPS, SAMPLES, capture)


def test_a_trainee_records_once_and_its_losses_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder, made = Recorder(), []

    def graphed(network: Extractor, clips: int, samples: int) -> Graphed:
        made.append(clips)
        return Graphed(network, clips, samples, recorder)

    monkeypatch.setattr(extractor, "Graphed", graphed)
    plain, ours = ([*epoch(trainee), *epoch(trainee)] for trainee in (trained(False), trained(True)))
    assert made == [4]
    assert recorder.replays == 2 * 2  # two full batches an epoch; the short one is not replayed
    assert plain == ours


def trained(cuda_graphs: bool) -> ExtractorTrainee:
    branches = (StftBranchConfig(kind="stft", n_fft=256), StftBranchConfig(kind="stft", n_fft=128))
    recipe = ExtractorRecipe(clip_seconds=0.25, branches=branches, batch_size=4, epochs=1, checkpoints=(1,))
    random = np.random.default_rng(0)
    bank = WaveBank([pack([random.integers(-999, 999, 5000).astype(np.int16) for _ in range(10)])])
    labels_AC = torch.eye(10, dtype=torch.bool)
    return ExtractorTrainee(recipe, 0, TrainingSet(bank, torch.arange(10), labels_AC), cuda_graphs)


def epoch(trainee: ExtractorTrainee) -> list[list[float]]:
    return [loss_B.tolist() for loss_B, _ in trainee.losses(torch.Generator().manual_seed(0))]


def test_a_setting_that_does_nothing_is_told() -> None:
    assert "cluster.cuda_graphs=true is not used" in str(graphs_note(True, gpu=False))
    assert graphs_note(True, gpu=True) is graphs_note(False, gpu=False) is None
