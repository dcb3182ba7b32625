"""The discriminative extractor as a trainee: augmented clips, label sets, the report's losses (paper §2.2, §3.1).

Shapes: A training clips, B clips of a batch, T samples, C classes.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.augment.cutmix import Cut, apply_cutmix, draw_cutmix
from models.augment.mixup import apply_mixup, draw_mixup
from models.branches import SAMPLE_RATE_HZ
from models.extractor import Extractor
from models.losses.featex import Exchange, draw_exchange
from models.losses.multi_label import Mix, unmixed
from models.losses.objective import Objective
from orchestrator.data.waves import WaveBank
from orchestrator.devices import sent
from orchestrator.graphs import Graphed
from orchestrator.optimisers import AdamW
from orchestrator.recipes import Augmentation, ExtractorRecipe
from orchestrator.storage import Store
from orchestrator.training import batches, load_weights, to_device


class TrainingSet(NamedTuple):
    """Which clips of a bank are trained on, and which classes each may have."""

    bank: WaveBank
    rows_A: Tensor  # int64, rows of the bank
    labels_AC: Tensor  # bool, at least one True a row


class Drawn(NamedTuple):
    """All that chance decides about a batch, in the order in which it is drawn."""

    pick_B: Tensor  # int64, of the training set
    rows_B: Tensor  # int64, the same of the bank
    position_B: Tensor  # in [0, 1], where longer clips are cropped
    change: Mix | Cut  # Cut for cutmix
    exchange: Exchange | None  # for FeatEx


class ExtractorTrainee:
    """An extractor with its loss; a seed decides the initial weights. `cuda_graphs` needs a GPU."""

    def __init__(self, recipe: ExtractorRecipe, seed: int, data: TrainingSet, cuda_graphs: bool = False) -> None:
        self.recipe, self.data, self.cuda_graphs = recipe, data, cuda_graphs
        self.compute: Callable[[Tensor], Tensor] | None = None  # the model, or a faster way through it
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
        return AdamW(
            [p for module in self.modules.values() for p in module.parameters()],
            lr=self.recipe.learning_rate,
            weight_decay=self.recipe.weight_decay,
            fused=True,
        )

    def losses(self, generator: torch.Generator) -> Iterator[tuple[Tensor, float]]:
        """One epoch over the training clips in random order."""
        recipe, bank, samples, clips = self.recipe, self.data.bank, clip_samples(self.recipe), len(self.data.rows_A)
        if self.compute is None:  # made here, not before: by now the model is where it is trained
            full = min(recipe.batch_size, clips)
            self.compute = Graphed(self.model, full, samples) if self.cuda_graphs else self.model
        for drawn, wave_BT in bank.stream(self._draw(generator), samples, min(recipe.batch_size + 1, clips)):
            wave_BT, mix = augment(wave_BT, recipe.augmentation, to_device(drawn.change, bank.device))
            exchange = None if drawn.exchange is None else to_device(drawn.exchange, bank.device)
            labels_BC = self.labels_AC[sent(drawn.pick_B, bank.device)]
            yield self.objective(self.compute(wave_BT), labels_BC, mix, exchange), len(drawn.pick_B)

    def _draw(self, generator: torch.Generator) -> Iterator[Drawn]:
        """The batches of an epoch; the order of draws decides scores."""
        recipe, rows_A = self.recipe, self.data.rows_A
        for pick_B in batches(len(rows_A), recipe.batch_size, generator):
            clips, exchange = len(pick_B), None
            position_B = torch.rand(clips, generator=generator)
            change = draw_change(clips, clip_samples(recipe), recipe.augmentation, generator)
            if recipe.auxiliary_loss == "featex":
                exchange = draw_exchange(clips, len(recipe.branches), recipe.featex_probability, generator)
            yield Drawn(pick_B, rows_A[pick_B], position_B, change, exchange)


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


def draw_change(clips: int, samples: int, augmentation: Augmentation, generator: torch.Generator) -> Mix | Cut:
    """How the clips of a batch are mixed or cut."""
    if augmentation.kind == "mixup":
        return draw_mixup(clips, augmentation.chance(), generator)
    if augmentation.kind == "cutmix":
        return draw_cutmix(clips, samples, augmentation.chance(), generator)
    return unmixed(clips)


def augment(wave_BT: Tensor, augmentation: Augmentation, change: Mix | Cut) -> tuple[Tensor, Mix]:
    """Mixup, cutmix or neither, applied where the batch is."""
    if isinstance(change, Cut):
        return apply_cutmix(wave_BT, change), change.mix
    return apply_mixup(wave_BT, change) if augmentation.kind == "mixup" else wave_BT, change
