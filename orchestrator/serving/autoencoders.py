"""The autoencoders of a system: one network a machine, and one of its two scores (spec §13, rows 1 and 2).

Shapes: B clips, V vectors of stacked frames, F bands, N frames, D = frames * F size of a vector.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.autoencoder import BANDS, Autoencoder, LogMel, mahalanobis_score, reconstruction_error, stack_frames
from orchestrator.data.waves import WaveBank
from orchestrator.recipes import AutoencoderRecipe
from orchestrator.serving.files import read_arrays
from orchestrator.serving.loading import check_size, explained
from orchestrator.serving.manifest import BundleError, Manifest, MemberEntry, Place
from orchestrator.storage import Store
from orchestrator.trainees.autoencoder import SHORTEST
from orchestrator.training import load_weights


class Network(NamedTuple):
    """One machine's network; `inverses` are those of source and target, none for the plain reconstruction error."""

    model: Autoencoder
    inverses: tuple[Tensor, ...]
    distance_of_mean: bool

    def score(self, frames_NF: Tensor) -> float:
        vectors_VD = stack_frames(frames_NF[None])[0]
        rebuilt_VD = self.model(vectors_VD)
        if not self.inverses:
            return float(reconstruction_error(vectors_VD, rebuilt_VD).mean())
        error_NF = (vectors_VD - rebuilt_VD).reshape(-1, BANDS)
        source, *target = self.inverses
        second = target[0] if target else None
        return mahalanobis_score(error_NF, source, second, of_mean_error=self.distance_of_mean)


class AutoencoderEnsemble:
    """The networks of every machine, on one device."""

    most_samples: int | None = None

    def __init__(self, manifest: Manifest, folder: Store, places: Sequence[Place], device: str) -> None:
        self.feature = LogMel().to(device)
        self.networks: defaultdict[str, list[Network]] = defaultdict(list)
        for member in manifest.members:
            self.networks[member.machine].append(_network(member, folder, manifest, device))

    def mean_scores(self, bank: WaveBank, places: Sequence[Place]) -> NDArray[np.float64]:
        """The score of each clip of the bank at its own length: (B,)."""
        score_B = np.empty(len(places))
        for row, place in enumerate(places):
            short = int(bank.length_A[row]) < SHORTEST
            wave_T = bank.cut(torch.tensor([row]), SHORTEST)[0] if short else bank.whole(row)
            frames_NF = self.feature(wave_T[None])[0]
            score_B[row] = np.mean([network.score(frames_NF) for network in self.networks[place.machine]])
        return score_B


def _network(member: MemberEntry, folder: Store, manifest: Manifest, device: str) -> Network:
    recipe, home = member.recipe, folder.child(*member.folder.split("/"))
    assert isinstance(recipe, AutoencoderRecipe)
    check_size(home, recipe.checkpoints, Autoencoder)
    model = Autoencoder()
    with explained(home, recipe.epochs):
        load_weights(model, home, recipe.epochs, device)
    inverses = tuple(
        torch.from_numpy(inverse).to(device)
        for name in member.arrays(manifest.key, manifest.output)
        for inverse in _inverses(home, name)
    )
    return Network(model, inverses, recipe.distance_of_mean)


def _inverses(home: Store, name: str) -> list[NDArray[np.float64]]:
    """The inverse covariances that a study kept: of source, then of target where it has any."""
    arrays = read_arrays(home, name)
    found = [arrays[name].astype(np.float64) for name in ("source", "target") if name in arrays]
    if not found or any(a.shape != (BANDS, BANDS) or not np.isfinite(a).all() for a in found):
        raise BundleError(f"{home.uri}/{name} holds no inverse covariances of {BANDS} bands; export the model again")
    return found
