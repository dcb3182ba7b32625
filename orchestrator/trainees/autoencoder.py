"""The challenge's baseline as a trainee: one machine's autoencoder, and its two scores (spec §13, rows 1 and 2).

Shapes: A training clips, N clips, V vectors of stacked frames, F bands, D = frames * F size of a vector.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.autoencoder import (
    BANDS,
    FRAMES,
    HOP_SAMPLES,
    Autoencoder,
    LogMel,
    fit_error_covariance,
    mahalanobis_score,
    reconstruction_error,
    stack_frames,
)
from orchestrator.data.waves import WaveBank
from orchestrator.optimisers import Adam
from orchestrator.recipes import AutoencoderRecipe
from orchestrator.storage import Store
from orchestrator.training import batches, load_weights

SHORTEST = (FRAMES - 1) * HOP_SAMPLES  # samples that give one vector; shorter clips are tiled


class AutoencoderTrainee:
    """All stacked frames of one machine's training clips, in random order, rebuilt."""

    def __init__(self, recipe: AutoencoderRecipe, seed: int, bank: WaveBank, rows_A: Tensor) -> None:
        self.recipe, self.clips = recipe, len(rows_A)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = Autoencoder()
        self.modules = {"model": self.model}
        clips = list(_log_mels(bank, rows_A.tolist()))
        self.frames = torch.cat(clips)  # (frames, F): vectors are gathered from it, five times smaller than they are
        ends = np.cumsum([len(frames) for frames in clips])
        firsts = [np.arange(end - len(frames), end - FRAMES + 1) for frames, end in zip(clips, ends, strict=True)]
        self.first_V = torch.from_numpy(np.concatenate(firsts))

    def optimiser(self) -> torch.optim.Optimizer:
        """Adam, as the official baseline has it."""
        return Adam(self.model.parameters(), lr=self.recipe.learning_rate, fused=True)

    def losses(self, generator: torch.Generator) -> Iterator[tuple[Tensor, float]]:
        """One epoch over all vectors in random order."""
        vectors = len(self.first_V)
        for pick_V in batches(vectors, self.recipe.batch_size, generator):
            index = self.first_V[pick_V][:, None] + torch.arange(FRAMES)
            vectors_VD = self.frames[index.to(self.frames.device)].flatten(1)
            yield reconstruction_error(vectors_VD, self.model(vectors_VD)), len(pick_V) * self.clips / vectors


def _log_mels(bank: WaveBank, rows: list[int]) -> Iterator[Tensor]:
    """The log-mel frames (frames, F) of clips at their own lengths."""
    feature = LogMel().to(bank.device)
    for row in rows:
        short = int(bank.length_A[row]) < SHORTEST
        wave_T = bank.cut(torch.tensor([row]), SHORTEST)[0] if short else bank.whole(row)
        yield feature(wave_T[None])[0]


@torch.inference_mode()
def score_clips(
    folder: Store,
    recipe: AutoencoderRecipe,
    bank: WaveBank,
    rows: NDArray[np.int64],
    *,
    train: NDArray[np.bool_],
    target: NDArray[np.bool_],
) -> dict[str, NDArray[np.float64]]:
    """Both scores of one machine's clips, rows (N,) of the bank: {"mse": (N,), "mahalanobis": (N,)}.

    `train` and `target` (N,) say which of them the covariances are fitted to, and in which domain.
    """
    model = Autoencoder()
    load_weights(model, folder, recipe.epochs, bank.device)
    mse_N, errors = np.empty(len(rows)), []
    for i, frames in enumerate(_log_mels(bank, rows.tolist())):
        vectors_VD = stack_frames(frames[None])[0]
        rebuilt_VD = model(vectors_VD)
        mse_N[i] = reconstruction_error(vectors_VD, rebuilt_VD).mean().item()
        errors.append((vectors_VD - rebuilt_VD).reshape(-1, BANDS))
    source = _inverse_covariance(errors, train & ~target)
    targets = _inverse_covariance(errors, train & target)
    first, *other = [inverse for inverse in (source, targets) if inverse is not None]
    second = other[0] if other else None
    mahalanobis = [mahalanobis_score(e, first, second, of_mean_error=recipe.distance_of_mean) for e in errors]
    return {"mse": mse_N, "mahalanobis": np.array(mahalanobis)}


def _inverse_covariance(errors: list[Tensor], chosen: NDArray[np.bool_]) -> Tensor | None:
    """Of the chosen clips' errors; None where none is chosen."""
    picked = [errors[i] for i in np.flatnonzero(chosen)]
    return fit_error_covariance(torch.cat(picked)) if picked else None
