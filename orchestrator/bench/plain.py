"""The common way: the network as commonly written, torch's AdamW, and a DataLoader that feeds clip by clip.

Shapes: B clips of a batch, T samples.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from models.plain import PlainExtractor
from orchestrator.data.waves import WaveBank
from orchestrator.recipes import ExtractorRecipe
from orchestrator.trainees.extractor import ExtractorTrainee, augment, build_extractor, clip_samples, draw_change
from orchestrator.training import to_device


def make_plain(trainee: ExtractorTrainee) -> None:
    """Give a trainee the network as commonly written, with the weights that it has."""
    fast = trainee.model
    model = build_extractor(trainee.recipe.model_copy(update={"precision": "float32"}), PlainExtractor)
    model.load_state_dict(fast.state_dict())
    trainee.model = trainee.modules["model"] = model


def plain_optimiser(trainee: ExtractorTrainee, recipe: ExtractorRecipe) -> torch.optim.Optimizer:
    """AdamW with the defaults of torch."""
    parameters = [p for module in trainee.modules.values() for p in module.parameters()]
    return torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)


class Clips(Dataset[tuple[Tensor, int]]):
    """One clip at a time, with its row; from memory, so it is read faster than from files."""

    def __init__(self, bank: WaveBank, samples: int) -> None:
        self.bank, self.samples = bank, samples

    def __len__(self) -> int:
        return len(self.bank)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return self.bank.cut(torch.tensor([row]), self.samples)[0], row


def make_loader(bank: WaveBank, samples: int, batch: int, workers: int, device: str, shuffle: bool) -> DataLoader[Any]:
    """Batches (waveforms (B, T), rows (B,)) made by processes of its own, in pinned memory for a GPU."""
    return DataLoader(
        Clips(bank, samples),
        batch,
        shuffle=shuffle,
        num_workers=workers,
        pin_memory=device != "cpu",
        persistent_workers=workers > 0,
    )


def loader_losses(
    trainee: ExtractorTrainee, loader: DataLoader[Any], device: torch.device, generator: torch.Generator
) -> Iterator[tuple[Tensor, float]]:
    """What `ExtractorTrainee.losses` gives for one epoch, with batches from a loader; without FeatEx."""
    recipe = trainee.recipe
    labels_AC = trainee.labels_AC.to(device)
    for fed_BT, row_B in loader:
        change = draw_change(len(row_B), clip_samples(recipe), recipe.augmentation, generator)
        wave_BT, mix = augment(fed_BT.to(device, non_blocking=True), recipe.augmentation, to_device(change, device))
        yield trainee.objective(trainee.model(wave_BT), labels_AC[row_B.to(device)], mix), len(row_B)
