"""From a study to its members and systems: `make_plan` says what there is to do, `run_study` does it."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.config import DataConfig, Study
from orchestrator.data import clips as clip_table
from orchestrator.data.dcase import find_clips
from orchestrator.data.labels import Vocabulary, build_vocabulary
from orchestrator.data.truth import read_truth
from orchestrator.decoding import Decoded, decode_on_ray
from orchestrator.errors import TrainingError
from orchestrator.farm import Status, Work, run_farm, training_rows
from orchestrator.ledger import Ledger
from orchestrator.loading import study_yaml
from orchestrator.members import Member, is_done, last_epoch
from orchestrator.results import Results, make_results, write_results
from orchestrator.runtime import Slots, busy_note, find_slots, ray_session
from orchestrator.scoring import SCORE_SCHEMA, few_clips_note, scores_name, scoring_key
from orchestrator.storage import Store, only_writer

CLIPS = "clips.parquet"
AUDIO_PER_SECOND_TRAINING = 150.0  # seconds of audio per second and core: 33 clips/s of 4.5 s, measured
AUDIO_PER_SECOND_SCORING = 500.0


class Outcome(NamedTuple):
    """What a run leaves behind, and how to look at its MLflow runs."""

    results: Results
    tracking_page: str


class Plan(NamedTuple):
    """What a study needs and how much of it is there; groups that ask for the same recipe share their members."""

    study: Study
    store: Store
    clips: pa.Table  # usable clips
    vocabulary: Vocabulary
    members: dict[str, Member]  # by hash, each once
    groups: dict[str, list[str]]  # group -> hashes, one a seed
    key: str  # of the scores, see orchestrator.scoring

    @property
    def pending(self) -> list[Member]:
        """Members that are not trained or not scored, the most advanced first."""
        left = [m for m in self.members.values() if not self.is_scored(m)]
        return sorted(left, key=lambda m: -last_epoch(m.folder(self.store)))

    def is_scored(self, member: Member) -> bool:
        folder = member.folder(self.store)
        return is_done(folder) and folder.exists(scores_name(self.key))

    def state(self, member: Member) -> str:
        """done, to score, resume at epoch N, or to train."""
        folder = member.folder(self.store)
        if is_done(folder):
            return "done" if self.is_scored(member) else "to score"
        epoch = last_epoch(folder)
        return f"resume at epoch {epoch + 1}" if epoch else "to train"

    def work_left(self, member: Member) -> tuple[int, int]:
        """What a pending member still needs, in clips: passes of training (once per epoch), and clips to score."""
        folder = member.folder(self.store)
        epochs = 0 if is_done(folder) else member.recipe.epochs - last_epoch(folder)
        return epochs * pc.sum(pc.equal(self.clips["split"], "train")).as_py(), len(self.clips)

    def clip_passes(self) -> int:
        """The work left in all, in clips through a network; a scored clip counts once, whatever the checkpoints."""
        return sum(sum(self.work_left(member)) for member in self.pending)


def estimated_seconds(plan: Plan) -> float:
    """The pending work on one core, from rates measured with the paper's network on one core; a rough guide."""
    seconds = 0.0
    for member in plan.pending:
        train, score = plan.work_left(member)
        audio_seconds = len(member.recipe.branches) / 3 * member.recipe.clip_seconds
        seconds += audio_seconds * train / AUDIO_PER_SECOND_TRAINING
        seconds += audio_seconds * score * len(member.recipe.checkpoints) / AUDIO_PER_SECOND_SCORING
    return seconds


def study_folder(study: Study) -> Path:
    return Path(study.storage) / study.name


def make_plan(study: Study) -> Plan:
    """Scan the recordings and list the members; writes nothing."""
    store = Store.at(study_folder(study))
    known = store.read_table(CLIPS) if store.exists(CLIPS) else None
    scanned = clip_table.scan(study.data.root, min_seconds=study.data.min_seconds, known=known)
    return plan_members(study, store, checked_clips(scanned, study.data))


def checked_clips(clips: pa.Table, data: DataConfig) -> pa.Table:
    """The usable clips with their truth; DataError with the list of what is broken."""
    usable = clip_table.check(clips, data.max_bad_clips)
    return clip_table.join_truth(usable, read_truth(data.truth)) if data.truth else usable


def plan_members(study: Study, store: Store, clips: pa.Table) -> Plan:
    """The members that a study needs on these clips."""
    train = clips.filter(pc.equal(clips["split"], "train"))
    vocabulary, data = build_vocabulary(train), clip_table.fingerprint(train)
    members: dict[str, Member] = {}
    groups: dict[str, list[str]] = {}
    for group, recipe in study.groups.items():
        for seed in study.seeds:
            member = Member(group, seed, recipe, vocabulary.digest, data)
            members.setdefault(member.hash, member)
            groups.setdefault(group, []).append(member.hash)
    key = scoring_key(study.backend, clips)
    return Plan(study, store, clips, vocabulary, members, groups, key)


def run_study(
    study: Study,
    *,
    say: Callable[[str], None],
    on_status: Callable[[Status, Plan, Slots], None],
) -> Outcome:
    """Execute a study: decode, train and score what is missing, form the systems, write and track the results.

    Interrupted anywhere, the same call goes on where it was. TrainingError where a member could not be trained; the
    others are kept.
    """
    folder = study_folder(study)
    found = find_clips(study.data.root)  # before anything is written: a wrong folder leaves no trace
    for note in found.notes:
        say(f"note: {note}")
    with only_writer(folder):
        store = Store.at(folder)
        store.write("study.yaml", study_yaml(study).encode())
        plan = _known_plan(study, store, found.clips)
        with Ledger(study, store, say) as ledger:
            if plan is None or plan.pending:
                with ray_session(study.cluster):
                    plan = _decode_and_train(study, store, found.clips, ledger, say, on_status)
            ledger.start(plan)
            results = make_results(study, plan.clips, plan.groups, _scores(plan))
            write_results(results, plan.clips, store)
            ledger.finish(plan, results)
        return Outcome(results, ledger.page())


def _known_plan(study: Study, store: Store, found: pa.Table) -> Plan | None:
    """The plan, without reading audio, where an earlier run knows every file as it is now."""
    if not store.exists(CLIPS):
        return None
    known = store.read_table(CLIPS)
    stamps = ("path", "size_bytes", "mtime_ns")
    rows, old = ({tuple(row.values()) for row in table.select(stamps).to_pylist()} for table in (found, known))
    if rows != old:
        return None
    scanned = clip_table.scan(study.data.root, min_seconds=study.data.min_seconds, known=known)
    return plan_members(study, store, checked_clips(scanned, study.data))


def _decode_and_train(
    study: Study,
    store: Store,
    found: pa.Table,
    ledger: "Ledger",
    say: Callable[[str], None],
    on_status: Callable[[Status, Plan, Slots], None],
) -> Plan:
    # Too few resources: say so before an hour of decoding, and before our own tasks hold any.
    wished = find_slots(study.cluster, len(study.groups) * len(study.seeds))
    busy = busy_note(wished)
    if busy:
        say(f"note: {busy}")
    say(f"decoding {len(found)} recordings on {study.cluster.address or 'a local Ray'}")
    decoded = decode_on_ray(found, study.data.min_seconds)
    plan = plan_members(study, store, checked_clips(decoded.clips, study.data))
    store.write_table(CLIPS, decoded.clips)
    note = few_clips_note(plan.clips, study.backend)
    if note:
        say(f"note: {note}")
    ledger.start(plan)
    pending = plan.pending
    if pending:
        slots = find_slots(study.cluster, len(pending))
        say(f"training and scoring {len(pending)} member(s) on {slots.number} slot(s)")

        def watch(status: Status) -> None:
            ledger.members(plan, status.finished)
            on_status(status, plan, slots)

        work = _work(plan, decoded)
        status = run_farm(pending, work, slots, max_failures=study.cluster.max_failures, on_status=watch)
        if status.failed:
            raise TrainingError(f"{len(status.failed)} member(s) failed:\n" + "\n".join(sorted(status.failed.values())))
    return plan


def _work(plan: Plan, decoded: Decoded) -> Work:
    """The bank holds the usable clips in the order of the parts; the plan's table must describe the same rows."""
    ids = decoded.usable()["clip_id"]
    clips = plan.clips.take(pc.index_in(ids, plan.clips["clip_id"].combine_chunks()))
    return training_rows(plan.store, clips, plan.vocabulary, plan.study.backend, decoded.parts)


def _scores(plan: Plan) -> pa.Table:
    """One row per member, checkpoint and clip; a member that two groups share appears once."""
    tables = [m.folder(plan.store).read_table(scores_name(plan.key)) for m in plan.members.values()]
    return pa.concat_tables(tables).cast(SCORE_SCHEMA)
