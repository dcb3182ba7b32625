"""What a slot does with one member: train it to its end, then write what later stages read.

Shapes: A training clips, C classes.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import ray
import torch
from numpy.typing import NDArray

from orchestrator.config import BackendConfig
from orchestrator.data.labels import LabelSets
from orchestrator.data.packing import Part
from orchestrator.data.waves import WaveBank
from orchestrator.members import Member
from orchestrator.memory import give_back_freed_memory
from orchestrator.recipes import AutoencoderRecipe, EncoderRecipe, ExtractorRecipe, Recipe
from orchestrator.scoring import Scoring, score_member, scoring_key
from orchestrator.storage import Store
from orchestrator.trainees.autoencoder import AutoencoderTrainee
from orchestrator.trainees.encoder import EncoderTrainee
from orchestrator.trainees.extractor import ExtractorTrainee, TrainingSet
from orchestrator.training import Trainee, train_member

AUTOENCODER_COST = 0.05  # of an extractor's pass over a clip: 0.25 of 4.6 GFLOP


class LabelledRows(NamedTuple):
    """The rows of the bank that some extractors are trained on, and the classes that each may have."""

    rows: NDArray[np.int64]  # (A,)
    labels: NDArray[np.bool_]  # (A, C)


class Work(NamedTuple):
    """What all members of a farm share; the waveforms are references into the object store."""

    study: Store
    parts: Sequence["ray.ObjectRef[Part]"]
    scoring: Scoring  # its clips are the bank's first rows; external clips follow
    sets: Mapping[str, LabelledRows]  # by the digest of their label sets
    cuda_graphs: bool = False  # for extractors, where slots have a GPU


def make_work(
    study: Store,
    clips: pa.Table,
    backend: BackendConfig,
    label_sets: Sequence[LabelSets],
    parts: Sequence["ray.ObjectRef[Part]"],
    external_ids: Sequence[str] = (),
    cuda_graphs: bool = False,
) -> Work:
    """The work of a farm whose bank holds `clips` and then the external ones, row by row."""
    row_of = {clip: row for row, clip in enumerate([*clips["clip_id"].to_pylist(), *external_ids])}
    sets = {
        labels.digest: LabelledRows(np.array([row_of[clip] for clip in labels.clip_ids]), labels.matrix())
        for labels in label_sets
    }
    return Work(study, parts, Scoring(clips, backend, scoring_key(backend, clips)), sets, cuda_graphs)


def work_on(member: Member, work: Work, bank: WaveBank, report: Callable[[str, float], None]) -> None:
    """Train and score one member; what is already there is not done again."""
    recipe, folder, seen = member.recipe, member.folder(work.study), [0.0]

    def step(epoch: int, clips: float) -> None:
        fresh = clips - seen[0] if clips > seen[0] else clips
        seen[0] = clips
        report(f"epoch {epoch}/{recipe.epochs}", fresh * cost(recipe))

    train_member(
        trainee=lambda: _trainee(member, work, bank),
        recipe=recipe,
        seed=member.seed,
        folder=folder,
        identity=member.identity,
        device=bank.device,
        on_step=step,
    )
    give_back_freed_memory()
    score_member(member, folder, work.scoring, bank, lambda clips: report("scoring", clips))
    give_back_freed_memory()


def cost(recipe: Recipe) -> float:
    """How long a training pass over a clip takes, in those of an extractor; a rough guide for the time left."""
    return AUTOENCODER_COST if isinstance(recipe, AutoencoderRecipe) else 1.0


def _trainee(member: Member, work: Work, bank: WaveBank) -> Trainee:
    recipe = member.recipe
    if isinstance(recipe, AutoencoderRecipe):
        return AutoencoderTrainee(recipe, member.seed, bank, _training_rows(work, member.machine))
    if isinstance(recipe, EncoderRecipe):
        own, others = _training_rows(work, member.machine), _training_rows(work, but=member.machine)
        return EncoderTrainee(recipe, member.seed, bank, own, others)
    return extractor_trainee(member, recipe, work, bank)


def extractor_trainee(member: Member, recipe: ExtractorRecipe, work: Work, bank: WaveBank) -> ExtractorTrainee:
    """What trains an extractor on its own label sets."""
    rows_A, labels_AC = (torch.from_numpy(array.copy()) for array in work.sets[member.classes])
    graphs = work.cuda_graphs and bank.device.type == "cuda"
    return ExtractorTrainee(recipe, member.seed, TrainingSet(bank, rows_A, labels_AC), graphs)


def _training_rows(work: Work, machine: str = "", but: str = "") -> torch.Tensor:
    """The training clips of one machine, or of all but one."""
    split, of = (work.scoring.clips[name].to_numpy(zero_copy_only=False) for name in ("split", "machine"))
    wanted = of == machine if machine else of != but
    return torch.from_numpy(np.flatnonzero((split == "train") & wanted))
