"""One trial, in a worker of Ray Tune: train its members rung by rung, all seeds to each rung, and report the figures.

Shapes: N clips, A of them for training, E = M * D size of z_cat.
"""

import time
from collections.abc import Generator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import torch
from numpy.typing import NDArray
from ray import tune

from orchestrator.config import BackendConfig, Study
from orchestrator.data.packing import Part
from orchestrator.data.waves import WaveBank
from orchestrator.errors import ConfigError, TrainingError, UserError
from orchestrator.farm import Reporter
from orchestrator.members import Member
from orchestrator.plan import Plan, plan_members
from orchestrator.pseudo_labels import make_pseudo_labels
from orchestrator.recipes import AutoencoderRecipe, ExtractorRecipe
from orchestrator.runtime import Slots
from orchestrator.scoring import embed_checkpoints, scoring_key
from orchestrator.storage import Store
from orchestrator.trainees.autoencoder import score_clips
from orchestrator.tuning.config import AshaConfig
from orchestrator.tuning.figures import Figures, Scores, distances, held_out_distances, label_free, summarise
from orchestrator.tuning.progress import EmbeddingStore, available, judged_at, train_up_to
from orchestrator.tuning.pseudo_anomalies import BlendBank, Pairs, draw_pairs
from orchestrator.tuning.template import Template
from orchestrator.work import Work, make_work, work_on

STEP = "epoch"  # what Ray Tune counts a trial's progress by
ERROR, AGAIN = "error", "again"  # in a report: what went wrong, and whether another try may do better


class Ground(NamedTuple):
    """What all trials share; the waveforms are references into the object store, decoded once."""

    template: Template
    store: Store
    clips: pa.Table  # usable, in the order of the bank
    parts: list["ray.ObjectRef[Part]"]
    slots: Slots
    board: Any  # an actor that is told what every trial does


def plan_trial(study: Study, store: Store, clips: pa.Table) -> Plan:
    """The members of a trial's study, as far as they are known before its pseudo-labels are made."""
    return plan_members(study, store, clips, [])


def rungs(asha: AshaConfig | None, epochs: int) -> list[int]:
    """The epochs after which a trial reports: grace, grace x reduction, ... and its last."""
    out, rung = [], asha.grace_epochs if asha else epochs
    while rung < epochs and asha:
        out.append(rung)
        rung *= asha.reduction
    return [*out, epochs]


def try_out(config: dict[str, Any], ground: Ground) -> None:
    """The trainable: one report per rung. What is wrong with the point itself is reported, not raised."""
    started = time.monotonic()

    def report(epoch: int, told: Mapping[str, Any]) -> None:
        tune.report({STEP: epoch, "seconds": time.monotonic() - started, **told})

    try:
        for epoch, figures in run_trial(config["number"], config["point"], ground):
            report(epoch, figures.known())
    except UserError as error:
        again = not isinstance(error, TrainingError | ConfigError)  # a full disk is no fault of the point
        metric: dict[str, float] = {ground.template.search.metric: float("nan")}  # Tune asks every report for it
        report(0, {ERROR: str(error), AGAIN: again, **metric})


def run_trial(number: int, point: dict[str, Any], ground: Ground) -> Generator[tuple[int, Figures], None, None]:
    """Train and judge one point: (epoch, figures) at each rung. Whatever an earlier attempt finished is used."""
    torch.set_num_threads(ground.slots.threads)
    search = ground.template.search
    study = ground.template.study_of(point)
    bank = WaveBank(ray.get(list(ground.parts)), "cuda" if ground.slots.gpus else "cpu")
    plan = _with_pseudo_labels(number, plan_trial(study, ground.store, ground.clips), ground, bank)
    members = plan.groups[search.group]
    work = _work(plan, ground)
    judge = Judge(ground, work, bank, study, number)
    for rung in rungs(search.asha, members[0].recipe.epochs):
        for member in members:
            train_up_to(member, rung, work, bank, Reporter(ground.board, number, member))
        yield rung, judge.rung(members, rung)


def _work(plan: Plan, ground: Ground) -> Work:
    sets, graphs = list(plan.label_sets.values()), plan.study.cluster.cuda_graphs
    return make_work(ground.store, ground.clips, plan.study.backend, sets, [], cuda_graphs=graphs)


def _with_pseudo_labels(number: int, plan: Plan, ground: Ground, bank: WaveBank) -> Plan:
    """The plan once the labels that its group waits for are made."""
    if not plan.waiting:
        return plan
    for pair in plan.encoders.values():
        for member in pair:
            work_on(member, _work(plan, ground), bank, Reporter(ground.board, number, member))
    make_pseudo_labels(plan.study.pseudo_labels, plan.clips, plan.encoders, ground.store, plan.pseudo_labels_folder())
    return plan_trial(plan.study, ground.store, ground.clips)


class Judge:
    """Turns members' checkpoints into figures, with one trial's backend."""

    def __init__(self, ground: Ground, work: Work, bank: WaveBank, study: Study, number: int) -> None:
        self.work, self.bank, self.backend = work, bank, study.backend
        self.clips, self.search = ground.clips, ground.template.search
        self.board, self.number = ground.board, number
        self.output = study.score_of(next(iter(study.systems)))  # which of an autoencoder's scores is asked for
        self.pairs: Pairs | None = draw_pairs(self.clips) if self.search.wants_label_free else None
        self.train = self.clips.take(self.pairs.rows_A) if self.pairs else self.clips.slice(0, 0)
        # By what is scored: clips that changed have other embeddings
        kept = ground.store.child("embeddings", scoring_key(BackendConfig(), self.clips))
        self.kept = EmbeddingStore(kept if self.search.varies_backend else None)

    def rung(self, members: list[Member], rung: int) -> Figures:
        """The figures of all members at a rung."""
        scores: dict[int, list[Scores]] = {}
        held_out: tuple[list[Scores], list[Scores]] = ([], [])
        for member in members:
            epochs = available(member, member.folder(self.work.study), judged_at(member, rung))
            if isinstance(member.recipe, AutoencoderRecipe):
                scores.setdefault(member.seed, []).append(self._autoencoder(member, member.recipe, epochs[-1]))
                continue
            embeddings = self._embeddings(member, epochs)
            scores.setdefault(member.seed, []).extend(
                distances(embed_NE, self.clips, self.backend, member.seed) for embed_NE in embeddings.values()
            )
            if self.pairs is not None and (rung == member.recipe.epochs or self.search.metric == "label_free"):
                self._held_out(member, embeddings, self.pairs, held_out)
        return summarise(self.clips, scores, label_free(self.train, *held_out) if held_out[0] else None)

    def _embeddings(self, member: Member, epochs: tuple[int, ...]) -> dict[int, NDArray[np.float32]]:
        return self.kept.get(member.hash, epochs, lambda missing: self._embed(member, missing, self.bank))

    def _embed(self, member: Member, epochs: tuple[int, ...], bank: Any) -> dict[int, NDArray[np.float32]]:
        assert isinstance(member.recipe, ExtractorRecipe)
        recipe = member.recipe.model_copy(update={"checkpoints": epochs})
        report = Reporter(self.board, self.number, member)
        folder = member.folder(self.work.study)
        return embed_checkpoints(folder, recipe, bank, len(bank), lambda clips: report("scoring", clips))

    def _held_out(
        self,
        member: Member,
        embeddings: dict[int, NDArray[np.float32]],
        pairs: Pairs,
        out: tuple[list[Scores], list[Scores]],
    ) -> None:
        """Add the scores of held-out training clips and of their blends."""
        blend_bank = BlendBank(self.bank, pairs, self.search.snr_db)
        name = f"{member.hash}-blends-{self.search.snr_db:g}dB"
        blends = self.kept.get(name, tuple(embeddings), lambda missing: self._embed(member, missing, blend_bank))
        for epoch, embed_NE in embeddings.items():
            normal_A, blend_A = held_out_distances(
                embed_NE[pairs.rows_A], blends[epoch], self.train, self.backend, member.seed
            )
            out[0].append(normal_A)
            out[1].append(blend_A)

    def _autoencoder(self, member: Member, recipe: AutoencoderRecipe, epoch: int) -> Scores:
        """Scores of the one machine's clips, NaN elsewhere: (N,)."""
        rows = np.flatnonzero(self.clips["machine"].to_numpy(zero_copy_only=False) == member.machine)
        own, score_N = self.clips.take(rows), np.full(len(self.clips), np.nan)
        train, target = (np.asarray(pc.equal(own[c], v)) for c, v in (("split", "train"), ("domain", "target")))
        at = recipe.model_copy(update={"epochs": epoch})
        folder = member.folder(self.work.study)
        score_N[rows] = score_clips(folder, at, self.bank, rows, train=train, target=target)[self.output]
        return score_N
