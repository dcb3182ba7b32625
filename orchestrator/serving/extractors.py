"""The extractors of a system: features once for all members that share them, then each member's own distance.

Shapes: B clips, K members x checkpoints, E = M * D size of z_cat, T samples.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.backend import Backend, anomaly_scores
from models.branches import SAMPLE_RATE_HZ
from models.extractor import Extractor
from orchestrator.data.waves import WaveBank
from orchestrator.recipes import BranchConfig, ExtractorRecipe
from orchestrator.scoring import load_backends
from orchestrator.serving.loading import check_size, explained
from orchestrator.serving.manifest import BundleError, Manifest, MemberEntry, Place
from orchestrator.storage import Store
from orchestrator.trainees.encoder import BATCH_CLIPS
from orchestrator.trainees.extractor import build_extractor, clip_samples, load_extractor

BATCH_SECONDS = BATCH_CLIPS * 18  # of audio: longer clips come in smaller batches, so that memory stays bounded


class Network(NamedTuple):
    """One checkpoint of a member."""

    branches: tuple[BranchConfig, ...]
    clip_samples: int
    model: Extractor
    backends: dict[Place, Backend]


class ExtractorEnsemble:
    """Every checkpoint of every member, on one device."""

    def __init__(self, manifest: Manifest, folder: Store, places: Sequence[Place], device: str) -> None:
        members = sorted(manifest.members, key=lambda member: member.hash)  # the order of the study's own mean
        self.networks = [net for member in members for net in _networks(member, folder, manifest.key, places, device)]
        self.lengths = sorted({network.clip_samples for network in self.networks})
        self.most_samples: int | None = self.lengths[-1]
        self.batch_clips = max(2, min(BATCH_CLIPS, BATCH_SECONDS * SAMPLE_RATE_HZ // self.lengths[-1]))

    def mean_scores(self, bank: WaveBank, places: Sequence[Place]) -> NDArray[np.float64]:
        """The mean distance of each clip of the bank: (B,)."""
        batches = torch.arange(len(bank)).split(self.batch_clips)
        return np.concatenate([self._batch(bank, rows, [places[row] for row in rows]) for rows in batches])

    def _batch(self, bank: WaveBank, rows: Tensor, places: Sequence[Place]) -> NDArray[np.float64]:
        # oneDNN rounds a batch of one clip differently (1e-5 in bfloat16) and all larger ones alike.
        shown = rows.repeat(2) if len(rows) == 1 else rows
        features: dict[tuple[int, BranchConfig], Tensor] = {}
        score_KB = np.empty((len(self.networks), len(rows)))
        for samples in self.lengths:
            wave_BT = bank.cut(shown, samples)
            for k, network in enumerate(self.networks):
                if network.clip_samples == samples:
                    embed_BE = _embed(network, wave_BT, features)[: len(rows)]
                    score_KB[k] = _distances(network.backends, embed_BE, places)
            features.clear()
        mean_B: NDArray[np.float64] = score_KB.mean(axis=0)
        return mean_B


def _embed(network: Network, wave_BT: Tensor, features: dict[tuple[int, BranchConfig], Tensor]) -> NDArray[np.float32]:
    inputs = []
    for branch, feature in zip(network.branches, network.model.features, strict=True):
        key = (network.clip_samples, branch)
        if key not in features:
            features[key] = feature(wave_BT)
        inputs.append(features[key])
    embed_BE: NDArray[np.float32] = network.model.embed(inputs).flatten(1).cpu().numpy()
    return embed_BE


def _distances(
    backends: dict[Place, Backend], embed_BE: NDArray[np.float32], places: Sequence[Place]
) -> NDArray[np.float64]:
    score_B = np.empty(len(places))
    for place in set(places):
        rows = [row for row, of in enumerate(places) if of == place]
        score_B[rows] = anomaly_scores(backends[place], embed_BE[rows])
    return score_B


def _networks(member: MemberEntry, folder: Store, key: str, places: Sequence[Place], device: str) -> list[Network]:
    """The checkpoints of one member with their references."""
    recipe, home = member.recipe, folder.child(*member.folder.split("/"))
    assert isinstance(recipe, ExtractorRecipe)
    check_size(home, recipe.checkpoints, lambda: build_extractor(recipe))
    networks = []
    for epoch in recipe.checkpoints:
        with explained(home, epoch):
            model = load_extractor(home, recipe, epoch, device)
            kept = load_backends(home, key, epoch)
        size = len(recipe.branches) * recipe.embedding_dim
        backends = {place: _checked(home, place, kept.get((place.machine, place.section)), size) for place in places}
        networks.append(Network(recipe.branches, clip_samples(recipe), model, backends))
    return networks


def _checked(home: Store, place: Place, backend: Backend | None, size: int) -> Backend:
    if backend is None:
        raise BundleError(f"{home.root}: no references for {place.key}; run the study again, then export it again")
    references_RE = backend.references_RE
    if references_RE.ndim != 2 or references_RE.shape[1] != size or not len(references_RE):
        raise BundleError(f"{home.root}: references of {place.key} have shape {references_RE.shape}, not (R, {size})")
    if not np.isfinite(references_RE).all():
        raise BundleError(f"{home.root}: references of {place.key} are not finite")
    return backend
