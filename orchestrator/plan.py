"""What a study needs and how much of it is there: its members, the stages that they wait for, the work left."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.config import CoreSetConfig, DataConfig, Study, uses_core_set, uses_pseudo_labels
from orchestrator.coreset import CoreSet, core_set_key, ledger_key, read_core_set
from orchestrator.data import clips as clip_table
from orchestrator.data.audioset import Shard, external_shards
from orchestrator.data.labels import LabelSets, label_sets
from orchestrator.data.true_attributes import read_true_attributes
from orchestrator.data.truth import read_truth
from orchestrator.errors import DataError
from orchestrator.external_scoring import Chooser
from orchestrator.loading import study_store
from orchestrator.members import Member, digest, is_done, last_epoch
from orchestrator.pseudo_labels import EncoderPair, pseudo_labels_key, read_pseudo_labels
from orchestrator.recipes import AutoencoderRecipe, ExtractorRecipe, GroupRecipe
from orchestrator.scoring import output_name, scoring_key
from orchestrator.storage import Store
from orchestrator.work import cost

CLIPS = "clips.parquet"
ENCODERS = "attribute-encoder"  # how displays and MLflow call the encoders' group


class Plan(NamedTuple):
    """Members of a study as far as they are known; groups that ask for the same thing share their members.

    What a group with pseudo-labels or a core-set is trained on is known only when those are made: until then it waits.
    """

    study: Study
    store: Store
    clips: pa.Table  # usable clips
    members: dict[str, Member]  # by hash, each once; encoders first
    groups: dict[str, list[Member]]
    label_sets: dict[str, LabelSets]  # by digest: what extractors learn
    encoders: dict[str, EncoderPair]  # by machine
    core_set: CoreSet | None  # without its audio, which stays on disk
    core_set_folder: Store | None  # where it is or will be; None where it is not known yet, or not asked for
    waiting: dict[str, str]  # group -> the stage that it waits for: pseudo-labels, or core-set
    key: str  # of the scores, see orchestrator.scoring

    @property
    def pending(self) -> list[Member]:
        """Members that are not trained or not scored, the most advanced first."""
        left = [m for m in self.members.values() if not self.is_through(m)]
        return sorted(left, key=lambda m: -last_epoch(m.folder(self.store)))

    @property
    def size(self) -> int:
        """How many members the study has, the same at every stage: of waiting groups too, shared ones each time."""
        known = sum(map(len, self.groups.values())) + sum(map(len, self.encoders.values()))
        return known + len(self.waiting) * len(self.study.seeds)

    def is_through(self, member: Member) -> bool:
        folder = member.folder(self.store)
        return is_done(folder) and folder.exists(output_name(member, self.key))

    def state(self, member: Member) -> str:
        """done, to score, resume at epoch N, or to train."""
        folder = member.folder(self.store)
        if is_done(folder):
            return "done" if self.is_through(member) else "to score"
        epoch = last_epoch(folder)
        return f"resume at epoch {epoch + 1}" if epoch else "to train"

    def work_left(self, member: Member) -> tuple[float, int]:
        """What a pending member still needs, in clips: passes of training (once per epoch), and clips to score."""
        folder = member.folder(self.store)
        epochs = 0 if is_done(folder) else member.recipe.epochs - last_epoch(folder)
        if isinstance(member.recipe, ExtractorRecipe):
            return epochs * len(self.label_sets[member.classes].clip_ids), len(self.clips)
        own = pc.and_(pc.equal(self.clips["split"], "train"), pc.equal(self.clips["machine"], member.machine))
        return epochs * pc.sum(own).as_py() * cost(member.recipe), 0

    def clip_passes(self) -> float:
        """The work left in all, in clips through a network; a scored clip counts once, whatever the checkpoints."""
        return sum(sum(self.work_left(member)) for member in self.pending)

    def pseudo_labels_folder(self) -> Store:
        return _pseudo_labels_folder(self.study, self.store, self.encoders)

    def core_set_config(self) -> CoreSetConfig:
        """How external clips are chosen, with the epoch of h filled in."""
        config = self.study.core_set
        assert config is not None
        recipe = self.study.groups[config.group]
        return config.model_copy(update={"epoch": config.epoch or recipe.checkpoints[-1]})

    def chooser_hashes(self) -> list[str]:
        assert self.study.core_set is not None
        return [member.hash for member in self.groups[self.study.core_set.group]]

    def external_scores(self) -> Store:
        """Where h's scores of external clips are kept: another limit or number of clips scores nothing again."""
        return self.store.child("external_scores", ledger_key(self.core_set_config(), self.chooser_hashes(), self.key))

    def chooser(self) -> Chooser:
        """h: the trained members that choose external clips."""
        config = self.core_set_config()
        members = self.groups[config.group]
        recipe = members[0].recipe
        assert isinstance(recipe, ExtractorRecipe)
        assert config.epoch is not None
        return Chooser(tuple(member.folder(self.store) for member in members), recipe, config.epoch, self.key)


def make_plan(study: Study) -> Plan:
    """Scan the recordings and list the members; writes nothing."""
    plan = scanned_plan(study, study_store(study), external_shards(study))
    check_true_attributes(plan)
    return plan


def scanned_plan(study: Study, store: Store, shards: Sequence[Shard]) -> Plan:
    """The plan of the recordings as they lie there now; those that an earlier run knows are not read again."""
    known = store.read_table(CLIPS) if store.exists(CLIPS) else None
    scanned = clip_table.scan(study.data.root, min_seconds=study.data.min_seconds, known=known)
    return plan_members(study, store, checked_clips(scanned, study.data), shards)


def check_true_attributes(plan: Plan) -> None:
    """DataError, before hours of training, where the table that will judge the pseudo-labels cannot be read."""
    if "pseudo-labels" in plan.waiting.values() and plan.study.pseudo_labels.truth:
        read_true_attributes(plan.study.pseudo_labels.truth)


def checked_clips(clips: pa.Table, data: DataConfig) -> pa.Table:
    """The usable clips with their truth; DataError with the list of what is broken."""
    usable = clip_table.check(clips, data.max_bad_clips)
    return clip_table.join_truth(usable, read_truth(data.truth)) if data.truth else usable


def plan_members(study: Study, store: Store, clips: pa.Table, shards: Sequence[Shard]) -> Plan:
    """The members that a study needs on these clips, as far as its pseudo-labels and its core-set are there."""
    train = clips.filter(pc.equal(clips["split"], "train"))
    encoders = _encoders(study, train)
    pseudo = read_pseudo_labels(_pseudo_labels_folder(study, store, encoders)) if encoders else {}
    plan = Plan(study, store, clips, {}, {}, {}, encoders, None, None, {}, scoring_key(study.backend, clips))
    plan.members.update({member.hash: member for pair in encoders.values() for member in pair})
    early = {group: recipe for group, recipe in study.groups.items() if not uses_core_set(recipe)}
    _add_groups(plan, early, train, pseudo, None)
    folder = _core_set_folder(plan, shards)
    plan = plan._replace(core_set_folder=folder, core_set=_known_core_set(folder))
    for group, recipe in study.groups.items():
        if uses_core_set(recipe) and plan.core_set is None:
            plan.waiting[group] = "core-set"
        elif uses_core_set(recipe):
            _add_groups(plan, {group: recipe}, train, pseudo, plan.core_set)
    return plan


def _encoders(study: Study, train: pa.Table) -> dict[str, EncoderPair]:
    """Two encoders for every machine without attributes, where a group asks for pseudo-labels."""
    machines = clip_table.machines_without_attributes(train)
    if not machines or not any(map(uses_pseudo_labels, study.groups.values())):
        return {}
    if len(set(train["machine"].to_pylist())) < 2:
        raise DataError(
            f"pseudo-labels of {machines[0]} need recordings of other machines as noise; add their folder to data.root"
        )
    config, data = study.pseudo_labels, clip_table.fingerprint(train)
    pairs = {}
    for machine in machines:
        first, second = (Member(ENCODERS, seed, config.encoder, "", data, machine) for seed in config.seeds)
        pairs[machine] = (first, second)
    return pairs


def _pseudo_labels_folder(study: Study, store: Store, encoders: Mapping[str, EncoderPair]) -> Store:
    return store.child("pseudo_labels", pseudo_labels_key(study.pseudo_labels, encoders))


def _add_groups(
    plan: Plan,
    groups: Mapping[str, GroupRecipe],
    train: pa.Table,
    pseudo: Mapping[str, Sequence[int]] | None,
    core_set: CoreSet | None,
) -> None:
    for group, recipe in groups.items():
        if uses_pseudo_labels(recipe) and pseudo is None:
            plan.waiting[group] = "pseudo-labels"
            continue
        if isinstance(recipe, AutoencoderRecipe):
            members = _autoencoders(plan.study, group, recipe, train)
        else:
            external = core_set.table if core_set is not None else None
            labels = label_sets(train, pseudo if recipe.pseudo_labels else None, external)
            plan.label_sets[labels.digest] = labels
            data = _fingerprint(train, external)
            members = [Member(group, seed, recipe, labels.digest, data) for seed in plan.study.seeds]
        plan.groups[group] = [plan.members.setdefault(member.hash, member) for member in members]


def _autoencoders(study: Study, group: str, recipe: AutoencoderRecipe, train: pa.Table) -> list[Member]:
    """One small network a machine, of the study's first seed (spec §13)."""
    by_machine = {m: train.filter(pc.equal(train["machine"], m)) for m in sorted(set(train["machine"].to_pylist()))}
    return [
        Member(group, study.seeds[0], recipe, "", clip_table.fingerprint(own), machine)
        for machine, own in by_machine.items()
    ]


def _fingerprint(train: pa.Table, external: pa.Table | None) -> str:
    """Identity of all training audio; no external clip is the same as no core-set."""
    own = clip_table.fingerprint(train)
    if external is None or not len(external):
        return own
    return digest([own, sorted(zip(external["clip_id"].to_pylist(), external["digest"].to_pylist(), strict=True))])


def _core_set_folder(plan: Plan, shards: Sequence[Shard]) -> Store | None:
    """Where the core-set of this study lies: named by all that the choice depends on, as soon as h is known."""
    config = plan.study.core_set
    if config is None or not shards or config.group not in plan.groups:
        return None
    return plan.store.child("core_set", core_set_key(plan.core_set_config(), shards, plan.chooser_hashes(), plan.key))


def _known_core_set(folder: Store | None) -> CoreSet | None:
    core_set = read_core_set(folder) if folder is not None else None
    return core_set and core_set._replace(table=core_set.table.drop_columns("samples"))
