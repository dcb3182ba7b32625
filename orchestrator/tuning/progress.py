"""A member's training, rung by rung: as far as asked, kept so that any later call goes on where this one ended.

Shapes: N clips, A of them for training, E = M * D size of z_cat.
"""

import io
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from orchestrator.data.waves import WaveBank
from orchestrator.members import DONE, Member, checkpoint_name
from orchestrator.recipes import AutoencoderRecipe, ExtractorRecipe
from orchestrator.storage import Store
from orchestrator.trainees.autoencoder import AutoencoderTrainee
from orchestrator.training import Trainee, epoch_seed, train_member
from orchestrator.work import Work, extractor_trainee

Report = Callable[[str, float], None]


class _AtRung(Exception):  # noqa: N818 - no error: the training loop has come as far as it was asked
    """The member has been trained up to the rung."""


class _UpTo:
    """A trainee whose loop ends before the first epoch after a rung; the weights there are kept as a checkpoint."""

    def __init__(self, trainee: Trainee, member: Member, folder: Store, rung: int) -> None:
        self.trainee, self.folder = trainee, folder
        self.modules, self.optimiser = trainee.modules, trainee.optimiser
        self.later = {epoch_seed(member.seed, epoch): epoch for epoch in range(rung + 1, member.recipe.epochs + 1)}

    def losses(self, generator: torch.Generator) -> Iterator[tuple[Tensor, float]]:
        """One epoch, unless it lies beyond the rung: which epoch it is, only its generator's seed tells."""
        epoch = self.later.get(generator.initial_seed())
        if epoch is None:
            return self.trainee.losses(generator)
        if not self.folder.exists(checkpoint_name(epoch - 1)):
            weights = {"model": self.modules["model"].state_dict()}
            self.folder.write_by(checkpoint_name(epoch - 1), partial(torch.save, weights))
        raise _AtRung


def train_up_to(member: Member, rung: int, work: Work, bank: WaveBank, report: Report) -> None:
    """Train a member through epoch `rung`, which may be its last; what is there already is not trained again."""
    folder, recipe = member.folder(work.study), member.recipe
    if folder.exists(DONE) or (rung < recipe.epochs and folder.exists(checkpoint_name(rung))):
        return
    seen = [0.0]

    def step(epoch: int, clips: float) -> None:
        fresh = clips - seen[0] if clips > seen[0] else clips
        seen[0] = clips
        report(f"epoch {epoch}/{recipe.epochs}", fresh)

    def trainee() -> Trainee:
        made = _trainee(member, work, bank)
        return _UpTo(made, member, folder, rung) if rung < recipe.epochs else made

    with suppress(_AtRung):
        train_member(
            trainee=trainee,
            recipe=recipe,
            seed=member.seed,
            folder=folder,
            identity=member.identity,
            device=bank.device,
            on_step=step,
        )


def _trainee(member: Member, work: Work, bank: WaveBank) -> Trainee:
    recipe = member.recipe
    if isinstance(recipe, AutoencoderRecipe):
        clips = work.scoring.clips
        split, machine = (clips[name].to_numpy(zero_copy_only=False) for name in ("split", "machine"))
        rows = np.flatnonzero((split == "train") & (machine == member.machine))
        return AutoencoderTrainee(recipe, member.seed, bank, torch.from_numpy(rows))
    assert isinstance(recipe, ExtractorRecipe)
    return extractor_trainee(member, recipe, work, bank)


def judged_at(member: Member, rung: int) -> tuple[int, ...]:
    """The checkpoints whose scores count at a rung: itself, and at the end the recipe's own.

    A member that an `asd run` trained may have no weights of a rung: see `available`.
    """
    return tuple(member.recipe.checkpoints) if rung >= member.recipe.epochs else (rung,)


def available(member: Member, folder: Store, epochs: tuple[int, ...]) -> tuple[int, ...]:
    """The checkpoints that stand for `epochs`: the first that is there from each one on."""
    there = [epoch for epoch in range(1, member.recipe.epochs + 1) if folder.exists(checkpoint_name(epoch))]
    return tuple(dict.fromkeys(next((e for e in there if e >= epoch), there[-1]) for epoch in epochs))


class EmbeddingStore:
    """Embeddings of members' checkpoints, kept on disk where trials that differ in the backend alone share them."""

    def __init__(self, folder: Store | None) -> None:
        self.folder = folder

    def get(
        self, name: str, epochs: tuple[int, ...], make: Callable[[tuple[int, ...]], dict[int, NDArray[np.float32]]]
    ) -> dict[int, NDArray[np.float32]]:
        """{epoch: (N, E)}; `make` is called for the epochs that are not kept."""
        kept = self.folder.child(name) if self.folder is not None else None
        there = {e: _read(kept, e) for e in epochs if kept is not None and kept.exists(_file(e))}
        missing = tuple(epoch for epoch in epochs if epoch not in there)
        made = make(missing) if missing else {}
        if kept is not None:
            for epoch, embed in made.items():
                kept.write(_file(epoch), _npy(embed))
        return {epoch: {**there, **made}[epoch] for epoch in epochs}


def _file(epoch: int) -> str:
    return f"epoch_{epoch:03d}.npy"


def _npy(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _read(folder: Store, epoch: int) -> NDArray[np.float32]:
    return np.load(io.BytesIO(folder.read(_file(epoch))), allow_pickle=False)
