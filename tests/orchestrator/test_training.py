"""The training loop: reproducible, resumable after every epoch, and honest about what it cannot do."""

from pathlib import Path

import numpy as np
import pytest
import torch

from orchestrator.config import Augmentation, Recipe, StftBranchConfig
from orchestrator.data.waves import WaveBank, pack
from orchestrator.errors import TrainingError
from orchestrator.storage import Store
from orchestrator.training import TrainingSet, batches, epoch_seed, load_checkpoint, train_member

BRANCHES = (StftBranchConfig(kind="stft", n_fft=256, tmn=False), StftBranchConfig(kind="stft", n_fft=128, tmn=True))


def recipe(**changes: object) -> Recipe:
    basis = {"clip_seconds": 0.5, "branches": BRANCHES, "batch_size": 4, "epochs": 3, "checkpoints": (2, 3)}
    return Recipe(**(basis | changes))


@pytest.fixture(scope="module")
def data() -> TrainingSet:
    random = np.random.default_rng(0)
    clips = [random.normal(0, 3000, random.integers(6000, 12000)).astype(np.int16) for _ in range(10)]
    labels = torch.zeros(10, 3, dtype=torch.bool)
    labels[torch.arange(10), torch.arange(10) % 3] = True
    return TrainingSet(WaveBank([pack(clips[:4]), pack(clips[4:])]), torch.arange(10), labels)


def weights(folder: Store, made: Recipe) -> dict[str, torch.Tensor]:
    return load_checkpoint(folder, made, made.checkpoints[-1]).state_dict()


@pytest.mark.parametrize(
    "changes",
    [{}, {"augmentation": Augmentation(kind="cutmix")}, {"auxiliary_loss": "featex"}, {"adaptive_scale": True}],
    ids=["mixup", "cutmix", "featex", "adaptive"],
)
def test_interrupted_after_any_epoch_ends_with_the_same_weights(
    tmp_path: Path, data: TrainingSet, changes: dict
) -> None:
    made = recipe(**changes)
    whole, cut = Store.at(tmp_path / "whole"), Store.at(tmp_path / "cut")
    history = train_member(recipe=made, seed=1, data=data, folder=whole, identity={})

    class KilledError(Exception):
        pass

    def die_in(epoch_to_die: int):
        def step(epoch: int, clips: int) -> None:
            if epoch == epoch_to_die and clips > 4:  # in the middle of the epoch
                raise KilledError

        return step

    for epoch in (1, 2, 3):
        with pytest.raises(KilledError):
            train_member(recipe=made, seed=1, data=data, folder=cut, identity={}, on_step=die_in(epoch))
    resumed = train_member(recipe=made, seed=1, data=data, folder=cut, identity={})
    assert [row["loss"] for row in resumed] == [row["loss"] for row in history]
    for name, tensor in weights(whole, made).items():
        assert torch.equal(tensor, weights(cut, made)[name]), name


def test_the_loss_falls_and_another_seed_gives_other_weights(tmp_path: Path, data: TrainingSet) -> None:
    made = recipe(epochs=6, checkpoints=(6,), augmentation=Augmentation(kind="none"))
    history = train_member(recipe=made, seed=0, data=data, folder=Store.at(tmp_path / "a"), identity={})
    assert history[-1]["loss"] < 0.8 * history[0]["loss"]
    train_member(recipe=made, seed=7, data=data, folder=Store.at(tmp_path / "b"), identity={})
    first, second = (weights(Store.at(tmp_path / name), made) for name in "ab")
    assert not torch.equal(first["networks.0.project.weight"], second["networks.0.project.weight"])


def test_a_done_member_is_not_touched(tmp_path: Path, data: TrainingSet) -> None:
    folder = Store.at(tmp_path / "m")
    history = train_member(recipe=recipe(), seed=0, data=data, folder=folder, identity={})
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "m").iterdir()}
    assert train_member(recipe=recipe(), seed=0, data=data, folder=folder, identity={}) == history
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "m").iterdir()} == before


def test_a_left_over_part_of_a_checkpoint_is_ignored(tmp_path: Path, data: TrainingSet) -> None:
    folder = Store.at(tmp_path / "m")
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / ".last.pt.0a1b2c3d.part").write_bytes(b"half a checkpo")
    train_member(recipe=recipe(), seed=0, data=data, folder=folder, identity={})
    assert folder.exists("done.json")


def test_a_loss_that_is_not_finite_is_an_error_that_names_the_way_out(tmp_path: Path, data: TrainingSet) -> None:
    folder = Store.at(tmp_path / "m")
    broken = data._replace(bank=NaNBank([pack([np.ones(8000, np.int16)] * 10)]))
    with pytest.raises(TrainingError, match="learning_rate"):
        train_member(recipe=recipe(), seed=0, data=broken, folder=folder, identity={})
    assert not folder.exists("done.json")
    assert not folder.exists("last.pt")


class NaNBank(WaveBank):
    def cut(self, *args: object, **named: object) -> torch.Tensor:
        return super().cut(*args, **named) * torch.nan


def test_batches_hold_every_clip_once_and_never_a_single_one() -> None:
    for clips in range(2, 40):
        parts = batches(clips, 4, torch.Generator().manual_seed(clips))
        assert sorted(torch.cat(list(parts)).tolist()) == list(range(clips))
        assert min(map(len, parts)) > 1
    with pytest.raises(TrainingError, match="at least 2"):
        batches(1, 4, torch.Generator())


def test_epoch_seeds_differ_and_are_pinned() -> None:
    seeds = {epoch_seed(seed, epoch) for seed in range(20) for epoch in range(50)}
    assert len(seeds) == 1000
    assert all(0 <= s < 2**63 for s in seeds)
