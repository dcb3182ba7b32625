"""The discriminative extractor as a trainee: augmented clips, label sets, the report's losses (paper §2.2, §3.1).

Shapes: A training clips, B clips of a batch, T samples, C classes.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.augment.cutmix import apply_cutmix, draw_cutmix
from models.augment.mixup import apply_mixup, draw_mixup
from models.extractor import Extractor
from models.features import SAMPLE_RATE_HZ
from models.losses.featex import Exchange, draw_exchange
from models.losses.multi_label import Mix, unmixed
from models.losses.objective import Objective
from orchestrator.data.waves import WaveBank
from orchestrator.recipes import Augmentation, ExtractorRecipe
from orchestrator.storage import Store
from orchestrator.training import batches, load_weights, to_device


class TrainingSet(NamedTuple):
    """Which clips of a bank are trained on, and which classes each may have."""

    bank: WaveBank
    rows_A: Tensor  # int64, rows of the bank
    labels_AC: Tensor  # bool, at least one True a row


class ExtractorTrainee:
    """An extractor with its loss; a seed decides the initial weights."""

    def __init__(self, recipe: ExtractorRecipe, seed: int, data: TrainingSet) -> None:
        self.recipe, self.data = recipe, data
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = build_extractor(recipe)
            self.objective = Objective(
                classes=data.labels_AC.shape[1],
                branches=len(recipe.branches),
                embedding_dim=recipe.embedding_dim,
                sub_clusters=recipe.sub_clusters,
                auxiliary=recipe.auxiliary_loss,
                adaptive_scale=recipe.adaptive_scale,
            )
        self.modules = {"model": self.model, "objective": self.objective}
        self.labels_AC = data.labels_AC.to(data.bank.device)

    def optimiser(self) -> torch.optim.Optimizer:
        """AdamW over the networks and the trainable centres."""
        return torch.optim.AdamW(
            [p for module in self.modules.values() for p in module.parameters()],
            lr=self.recipe.learning_rate,
            weight_decay=self.recipe.weight_decay,
            fused=True,
        )

    def losses(self, generator: torch.Generator) -> Iterator[tuple[Tensor, float]]:
        """One epoch over the training clips in random order."""
        recipe, bank = self.recipe, self.data.bank
        for pick_B in batches(len(self.data.rows_A), recipe.batch_size, generator):
            position = torch.rand(len(pick_B), generator=generator)
            wave_BT = bank.cut(self.data.rows_A[pick_B], clip_samples(recipe), position)
            wave_BT, mix = augment(wave_BT, recipe.augmentation, generator)
            exchange = self._exchange(len(pick_B), generator)
            labels_BC = self.labels_AC[pick_B.to(bank.device)]
            yield self.objective(self.model(wave_BT), labels_BC, mix, exchange), len(pick_B)

    def _exchange(self, clips: int, generator: torch.Generator) -> Exchange | None:
        recipe = self.recipe
        if recipe.auxiliary_loss != "featex":
            return None
        drawn = draw_exchange(clips, len(recipe.branches), recipe.featex_probability, generator)
        return Exchange(*to_device(drawn, self.data.bank.device))


def build_extractor(recipe: ExtractorRecipe, kind: type[Extractor] = Extractor) -> Extractor:
    """An extractor with the weights that torch's current random state gives."""
    return kind(
        branches=[branch.as_branch() for branch in recipe.branches],
        clip_samples=clip_samples(recipe),
        embedding_dim=recipe.embedding_dim,
        autocast=recipe.precision == "bfloat16",
    )


def clip_samples(recipe: ExtractorRecipe) -> int:
    """T: the length that every clip is brought to."""
    return round(recipe.clip_seconds * SAMPLE_RATE_HZ)


def load_extractor(folder: Store, recipe: ExtractorRecipe, epoch: int, device: torch.device | str = "cpu") -> Extractor:
    """The extractor as it was after an epoch, in evaluation mode."""
    model = build_extractor(recipe)
    load_weights(model, folder, epoch, device)
    return model


def embed_by_each(models: Sequence[Extractor], wave_BT: Tensor) -> list[NDArray[np.float32]]:
    """z_cat (B, E) by each of some extractors of one recipe; the features, which are the same, are computed once."""
    inputs = [feature(wave_BT) for feature in models[0].features]
    return [model.embed(inputs).flatten(1).cpu().numpy() for model in models]


def augment(wave_BT: Tensor, augmentation: Augmentation, generator: torch.Generator) -> tuple[Tensor, Mix]:
    """Mixup, cutmix or neither, applied where the batch is."""
    clips, samples = wave_BT.shape
    device = wave_BT.device
    if augmentation.kind == "mixup":
        mix = to_device(draw_mixup(clips, augmentation.chance(), generator), device)
        return apply_mixup(wave_BT, mix), mix
    if augmentation.kind == "cutmix":
        cut = draw_cutmix(clips, samples, augmentation.chance(), generator)
        cut = cut._replace(
            mix=to_device(cut.mix, device), start_B=cut.start_B.to(device), length_B=cut.length_B.to(device)
        )
        return apply_cutmix(wave_BT, cut), cut.mix
    return wave_BT, to_device(unmixed(clips), device)
