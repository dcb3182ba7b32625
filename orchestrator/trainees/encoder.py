"""g_attr as a trainee: triplets of one machine's clips, noise from the other machines (paper §3.2.1, spec §7).

Shapes: A clips of the machine, P clips of other machines, B clips of a batch, T samples, F bins, N frames, D embedding.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.attribute_encoder import AttributeEncoder
from models.augment.triplets import draw_triplets, make_triplets
from models.branches import SAMPLE_RATE_HZ
from models.losses.triplet import triplet_loss
from orchestrator.data.waves import WaveBank
from orchestrator.optimisers import AdamW
from orchestrator.recipes import EncoderRecipe
from orchestrator.storage import Store
from orchestrator.training import batches, load_weights

BATCH_CLIPS = 16  # embedded at a time on a CPU: small enough for the caches, 1.3 times as fast as 64
GPU_BATCH_CLIPS = 64  # on a GPU, as in training; not measured


class EncoderTrainee:
    """One machine's encoder; a batch holds its clips and as many clips of other machines as noise."""

    def __init__(self, recipe: EncoderRecipe, seed: int, bank: WaveBank, rows_A: Tensor, noise_P: Tensor) -> None:
        self.recipe, self.bank, self.rows_A, self.noise_P = recipe, bank, rows_A, noise_P
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = build_encoder(recipe)
        self.modules = {"model": self.model}

    def optimiser(self) -> torch.optim.Optimizer:
        """AdamW, as for extractors."""
        recipe = self.recipe
        return AdamW(self.model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)

    def losses(self, generator: torch.Generator) -> Iterator[tuple[Tensor, float]]:
        """One epoch over the machine's clips in random order."""
        recipe = self.recipe
        for pick_B in batches(len(self.rows_A), recipe.batch_size, generator):
            noise_B = torch.randint(len(self.noise_P), (len(pick_B),), generator=generator)
            spec_BFN = self._spectrograms(self.rows_A[pick_B], generator)
            noise_BFN = self._spectrograms(self.noise_P[noise_B], generator)
            draw = draw_triplets(
                len(pick_B),
                len(noise_B),
                generator,
                min_snr_db=recipe.min_snr_db,
                max_snr_db=recipe.max_snr_db,
                axes=recipe.resize_axes,
            )
            triplets = torch.cat(make_triplets(spec_BFN, noise_BFN, draw))
            anchor_BD, positive_BD, negative_BD = self.model.embed(triplets).chunk(3)
            yield triplet_loss(anchor_BD, positive_BD, negative_BD, recipe.margin), len(pick_B)

    def _spectrograms(self, rows_B: Tensor, generator: torch.Generator) -> Tensor:
        position = torch.rand(len(rows_B), generator=generator)
        return self.model.spectrogram(self.bank.cut(rows_B, clip_samples(self.recipe), position))


def build_encoder(recipe: EncoderRecipe) -> AttributeEncoder:
    """An encoder with the weights that torch's current random state gives."""
    return AttributeEncoder(
        n_fft=recipe.n_fft,
        embedding_dim=recipe.embedding_dim,
        tmn=recipe.tmn,
        autocast=recipe.precision == "bfloat16",
    )


def clip_samples(recipe: EncoderRecipe) -> int:
    """T: the length that every clip is brought to."""
    return round(recipe.clip_seconds * SAMPLE_RATE_HZ)


def batch_clips(device: torch.device) -> int:
    """How many clips are embedded at a time."""
    return BATCH_CLIPS if device.type == "cpu" else GPU_BATCH_CLIPS


@torch.inference_mode()
def embed_clips(folder: Store, recipe: EncoderRecipe, bank: WaveBank, rows_A: Tensor) -> NDArray[np.float32]:
    """The trained encoder's embeddings of some clips: (A, D)."""
    model = build_encoder(recipe)
    load_weights(model, folder, recipe.epochs, bank.device)
    batches_B = rows_A.split(batch_clips(bank.device))
    return np.concatenate([model(bank.cut(rows, clip_samples(recipe))).cpu().numpy() for rows in batches_B])
