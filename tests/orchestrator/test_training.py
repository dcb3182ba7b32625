"""The training loop: reproducible, resumable after every epoch, and honest about what it cannot do."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from orchestrator import devices
from orchestrator.data.packing import pack
from orchestrator.data.waves import WaveBank
from orchestrator.errors import StorageError, TrainingError
from orchestrator.members import last_epoch
from orchestrator.recipes import Augmentation, AutoencoderRecipe, EncoderRecipe, ExtractorRecipe, StftBranchConfig
from orchestrator.storage import Store
from orchestrator.trainees.autoencoder import AutoencoderTrainee
from orchestrator.trainees.encoder import EncoderTrainee
from orchestrator.trainees.extractor import ExtractorTrainee, TrainingSet, load_extractor
from orchestrator.training import Trainee, batches, epoch_seed, train_member

BRANCHES = (StftBranchConfig(kind="stft", n_fft=256, tmn=False), StftBranchConfig(kind="stft", n_fft=128, tmn=True))


def recipe(**changes: object) -> ExtractorRecipe:
    basis = {"clip_seconds": 0.5, "branches": BRANCHES, "batch_size": 4, "epochs": 3, "checkpoints": (2, 3)}
    return ExtractorRecipe(**(basis | changes))


@pytest.fixture(scope="module")
def data() -> TrainingSet:
    random = np.random.default_rng(0)
    clips = [random.normal(0, 3000, random.integers(6000, 12000)).astype(np.int16) for _ in range(10)]
    labels = torch.zeros(10, 3, dtype=torch.bool)
    labels[torch.arange(10), torch.arange(10) % 3] = True
    return TrainingSet(WaveBank([pack(clips[:4]), pack(clips[4:])]), torch.arange(10), labels)


def train(made: ExtractorRecipe, seed: int, data: TrainingSet, folder: Store, **named: Any) -> list[dict[str, float]]:
    return train_member(
        trainee=lambda: ExtractorTrainee(made, seed, data), recipe=made, seed=seed, folder=folder, identity={}, **named
    )


def weights(folder: Store, made: ExtractorRecipe) -> dict[str, torch.Tensor]:
    return load_extractor(folder, made, made.checkpoints[-1]).state_dict()


def extractor(changes: dict) -> Callable[[TrainingSet], tuple[ExtractorRecipe, Callable[[], Trainee]]]:
    made = recipe(**changes)
    return lambda data: (made, lambda: ExtractorTrainee(made, 1, data))


def encoder(data: TrainingSet) -> tuple[EncoderRecipe, Callable[[], Trainee]]:
    made = EncoderRecipe(clip_seconds=0.5, n_fft=256, batch_size=4, epochs=3)
    return made, lambda: EncoderTrainee(made, 1, data.bank, torch.arange(6), torch.arange(6, 10))


def autoencoder(data: TrainingSet) -> tuple[AutoencoderRecipe, Callable[[], Trainee]]:
    made = AutoencoderRecipe(kind="autoencoder", batch_size=20, epochs=3)
    return made, lambda: AutoencoderTrainee(made, 1, data.bank, torch.arange(10))


@pytest.mark.parametrize(
    "kind",
    [
        extractor({}),
        extractor({"augmentation": Augmentation(kind="cutmix")}),
        extractor({"auxiliary_loss": "featex"}),
        extractor({"adaptive_scale": True}),
        encoder,
        autoencoder,
    ],
    ids=["mixup", "cutmix", "featex", "adaptive", "encoder", "autoencoder"],
)
def test_interrupted_after_any_epoch_ends_with_the_same_weights(
    tmp_path: Path, data: TrainingSet, kind: Callable[[TrainingSet], tuple[Any, Callable[[], Trainee]]]
) -> None:
    made, trainee = kind(data)
    whole, cut = Store.at(tmp_path / "whole"), Store.at(tmp_path / "cut")

    def go(folder: Store, **named: Any) -> list[dict[str, float]]:
        return train_member(trainee=trainee, recipe=made, seed=1, folder=folder, identity={}, **named)

    history = go(whole)

    class KilledError(Exception):
        pass

    def die_in(epoch_to_die: int) -> Callable[[int, float], None]:
        def step(epoch: int, clips: float) -> None:
            if epoch == epoch_to_die and clips > 4:  # in the middle of the epoch
                raise KilledError

        return step

    for epoch in (1, 2, 3):
        with pytest.raises(KilledError):
            go(cut, on_step=die_in(epoch))
    assert [row["loss"] for row in go(cut)] == [row["loss"] for row in history]
    first, second = (
        torch.load(tmp_path / name / "epoch_003.pt", weights_only=True)["model"] for name in ("whole", "cut")
    )
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def test_the_loss_falls_and_another_seed_gives_other_weights(tmp_path: Path, data: TrainingSet) -> None:
    made = recipe(epochs=6, checkpoints=(6,), augmentation=Augmentation(kind="none"))
    history = train(made, 0, data, Store.at(tmp_path / "a"))
    assert history[-1]["loss"] < 0.8 * history[0]["loss"]
    train(made, 7, data, Store.at(tmp_path / "b"))
    first, second = (weights(Store.at(tmp_path / name), made) for name in "ab")
    assert not torch.equal(first["networks.0.project.weight"], second["networks.0.project.weight"])


def test_a_done_member_says_how_it_was_computed(
    tmp_path: Path, data: TrainingSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    for able, made, networks in (
        (True, recipe(), "bfloat16"),
        (False, recipe(), "float32"),
        (True, recipe(precision="float32"), "float32"),
    ):
        monkeypatch.setattr(devices, "computes_bfloat16", lambda kind, able=able: able)
        folder = Store.at(tmp_path / f"{able}-{made.precision}")
        train(made, 0, data, folder)
        told = {"device": "cpu", "threads": torch.get_num_threads(), "networks": networks}
        assert folder.read_json("done.json")["made_on"] == told


def test_a_done_member_is_not_touched(tmp_path: Path, data: TrainingSet) -> None:
    folder = Store.at(tmp_path / "m")
    history = train(recipe(), 0, data, folder)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "m").iterdir()}
    assert train(recipe(), 0, data, folder) == history
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "m").iterdir()} == before


@pytest.mark.parametrize(("name", "epochs"), [("last.pt", 2), ("epoch_003.pt", 3)])
def test_what_cannot_be_written_ends_the_run_after_the_next_epoch_and_is_repeated(
    tmp_path: Path, data: TrainingSet, monkeypatch: pytest.MonkeyPatch, name: str, epochs: int
) -> None:
    made, folder, write, seen = recipe(), Store.at(tmp_path / "m"), Store.write_by, set()

    def full(store: Store, file: str, fill: Callable[[Any], object]) -> None:
        if file == name:
            raise StorageError(f"{file}: no space left")
        write(store, file, fill)

    monkeypatch.setattr(Store, "write_by", full)
    with pytest.raises(StorageError, match=name):
        train(made, 0, data, folder, on_step=lambda epoch, clips: seen.add(epoch))
    assert seen == set(range(1, epochs + 1))
    assert not folder.exists("done.json")
    monkeypatch.undo()
    train(made, 0, data, folder)
    train(made, 0, data, Store.at(tmp_path / "whole"))
    first, second = weights(folder, made), weights(Store.at(tmp_path / "whole"), made)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_every_epoch_but_the_final_one_leaves_a_state(tmp_path: Path, data: TrainingSet) -> None:
    folder, kept = Store.at(tmp_path / "m"), []

    def look(epoch: int, clips: float) -> None:
        deadline = time.monotonic() + 30
        while last_epoch(folder) < epoch - 1 and time.monotonic() < deadline:
            time.sleep(0.01)  # the state of the epoch before is written beside this one
        kept.append((epoch, last_epoch(folder)))

    train(recipe(epochs=4, checkpoints=(4,)), 0, data, folder, on_step=look)
    assert sorted(set(kept)) == [(1, 0), (2, 1), (3, 2), (4, 3)]
    assert last_epoch(folder) == 3
    assert folder.exists("done.json")


def test_a_left_over_part_of_a_checkpoint_is_ignored(tmp_path: Path, data: TrainingSet) -> None:
    folder = Store.at(tmp_path / "m")
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / ".last.pt.0a1b2c3d.part").write_bytes(b"half a checkpo")
    train(recipe(), 0, data, folder)
    assert folder.exists("done.json")


def test_a_loss_that_is_not_finite_is_an_error_that_names_the_way_out(tmp_path: Path, data: TrainingSet) -> None:
    folder = Store.at(tmp_path / "m")
    broken = data._replace(bank=NaNBank([pack([np.ones(8000, np.int16)] * 10)]))
    with pytest.raises(TrainingError, match="learning_rate"):
        train(recipe(), 0, broken, folder)
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
