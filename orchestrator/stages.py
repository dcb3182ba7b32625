"""The stages of a study: decode, train, label, choose external audio, train on it, form the systems.

Imports everything, for seconds: `orchestrator.study` starts Ray meanwhile.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
from numpy.typing import NDArray

from orchestrator.config import Study
from orchestrator.coreset import CoreSet, Progress, choose_core_set, read_core_set, samples_of
from orchestrator.data import clips as clip_table
from orchestrator.data.audioset import Shard
from orchestrator.data.packing import Part, pack
from orchestrator.decoding import Decoded, decode_on_ray
from orchestrator.devices import graphs_note
from orchestrator.errors import TrainingError
from orchestrator.farm import run_farm
from orchestrator.ledger import Ledger
from orchestrator.member_queue import Status
from orchestrator.members import is_done
from orchestrator.plan import CLIPS, Plan, check_true_attributes, checked_clips, plan_members
from orchestrator.pseudo_labels import make_pseudo_labels
from orchestrator.recipes import EncoderRecipe
from orchestrator.results import Results, make_results, write_results
from orchestrator.runtime import LOCAL, Slots, busy_note, cluster_address, find_slots, ray_session
from orchestrator.scoring import SCORE_SCHEMA, few_clips_note, output_name
from orchestrator.storage import Store
from orchestrator.work import Work, make_work


class View(Protocol):
    """Who watches a run: gets sentences, and the state of the farm and of external scoring about twice a second."""

    def say(self, message: str) -> None: ...
    def members(self, status: Status, plan: Plan, slots: Slots) -> None: ...
    def external(self, progress: Progress) -> None: ...


class Outcome(NamedTuple):
    """What a run leaves behind, and how to look at its MLflow runs."""

    results: Results
    tracking_page: str


class Session(NamedTuple):
    """What the stages of one run share while Ray is there."""

    study: Study
    store: Store
    shards: Sequence[Shard]
    ledger: Ledger
    view: View


def execute(study: Study, store: Store, found: pa.Table, shards: Sequence[Shard], view: View) -> Outcome:
    """Do what is missing of a study whose recordings were found and whose folder is this writer's alone."""
    plan = _known_plan(study, store, found, shards)
    with Ledger(study, store, view.say) as ledger:
        if plan is None or plan.pending or plan.waiting:
            with ray_session(study.cluster):
                plan = _train_all(Session(study, store, shards, ledger, view), found)
        ledger.start(plan)
        results = make_results(study, plan.clips, plan.groups, _scores(plan))
        write_results(results, plan.clips, store)
        ledger.finish(plan, results)
    return Outcome(results, ledger.page())


def _known_plan(study: Study, store: Store, found: pa.Table, shards: Sequence[Shard]) -> Plan | None:
    """The plan, without reading audio, where an earlier run knows every file as it is now."""
    if not store.exists(CLIPS):
        return None
    known = store.read_table(CLIPS)
    stamps = ("path", "size_bytes", "mtime_ns")
    rows, old = ({tuple(row.values()) for row in table.select(stamps).to_pylist()} for table in (found, known))
    if rows != old:
        return None
    scanned = clip_table.scan(study.data.root, min_seconds=study.data.min_seconds, known=known)
    return plan_members(study, store, checked_clips(scanned, study.data), shards)


def _train_all(session: Session, found: pa.Table) -> Plan:
    """The stages: members that wait for nothing, those with pseudo-labels, those with the core-set."""
    study, say = session.study, session.view.say
    decoded = _decode(session, found)
    clips = checked_clips(decoded.clips, study.data)
    session.store.write_table(CLIPS, decoded.clips)
    note = few_clips_note(clips, study.backend)
    if note:
        say(f"note: {note}")

    def next_plan() -> Plan:
        return plan_members(study, session.store, clips, session.shards)

    plan = next_plan()
    check_true_attributes(plan)
    session.ledger.start(plan)
    _train(session, plan, decoded)
    if "pseudo-labels" in plan.waiting.values():
        _label(session, plan)
        plan = next_plan()
        _train(session, plan, decoded)
    if "core-set" in plan.waiting.values():
        choose(session, plan)
        plan = next_plan()
        _train(session, plan, decoded)
    return plan


def _decode(session: Session, found: pa.Table) -> Decoded:
    study, say = session.study, session.view.say
    # Too few resources: say so before an hour of decoding, and before our own tasks hold any.
    slots = find_slots(study.cluster, len(study.groups) * len(study.seeds))
    for note in filter(None, (busy_note(slots), graphs_note(study.cluster.cuda_graphs, slots.gpus > 0))):
        say(f"note: {note}")
    address = cluster_address(study.cluster)
    say(f"decoding {len(found)} recordings on {'a local Ray' if address == LOCAL else address}")
    return decode_on_ray(found, study.data.min_seconds)


def _train(session: Session, plan: Plan, decoded: Decoded) -> None:
    """Train and score every pending member; TrainingError names those that failed."""
    pending = plan.pending
    if not pending:
        return
    slots = find_slots(session.study.cluster, len(pending), plan.size)
    later = f"; {len(plan.waiting)} group(s) wait for {' and '.join(dict.fromkeys(plan.waiting.values()))}"
    trained = sum(is_done(member.folder(session.store)) for member in pending)
    counts = {"training and scoring": len(pending) - trained, "only scoring": trained}
    what = ", ".join(f"{verb} {count} member(s)" for verb, count in counts.items() if count)
    threads = f" of {slots.threads} threads" if slots.threads > 1 and not slots.gpus else ""
    session.view.say(f"{what} on {slots.number} slot(s){threads}{later if plan.waiting else ''}")

    def watch(status: Status) -> None:
        session.ledger.members(plan, status.finished)
        session.view.members(status, plan, slots)

    work = _work(plan, decoded)
    status = run_farm(pending, work, slots, max_failures=session.study.cluster.max_failures, on_status=watch)
    if status.failed:
        raise TrainingError(f"{len(status.failed)} member(s) failed:\n" + "\n".join(sorted(status.failed.values())))


def _label(session: Session, plan: Plan) -> None:
    """Algorithm 1 for every machine without attributes."""
    folder = plan.pseudo_labels_folder()
    for found in make_pseudo_labels(session.study.pseudo_labels, plan.clips, plan.encoders, plan.store, folder):
        truth = f", ARI {found.agreement.ari:.2f} against the true attributes" if found.agreement else ""
        session.view.say(
            f"pseudo-labels of {found.place}: {found.clips} clips in {found.clusters} clusters with "
            f"{found.label_sets} label sets{truth}"
        )


def choose(session: Session, plan: Plan) -> CoreSet:
    """Algorithm 2 over the external audio, with the trained members of one group as h."""
    study, chooser = session.study, plan.chooser()
    assert plan.core_set_folder is not None
    core_set = choose_core_set(
        config=plan.core_set_config(),
        shards=session.shards,
        chooser=chooser,
        original=_original_scores(plan, chooser.epoch),
        store=plan.core_set_folder,
        ledger=plan.external_scores(),
        slots=find_slots(study.cluster, 1_000_000),
        on_progress=session.view.external,
        say=session.view.say,
    )
    if not len(core_set.table):
        session.view.say(
            "note: the core-set is empty: no external clip scores below the threshold. Groups with core_set=true are "
            "the groups without; nothing is trained twice"
        )
    return core_set


def _original_scores(plan: Plan, epoch: int) -> dict[str, NDArray[np.float64]]:
    """h, the mean over seeds at one epoch, of each machine's training clips."""
    assert plan.study.core_set is not None
    members = plan.groups[plan.study.core_set.group]
    table = pa.concat_tables(m.folder(plan.store).read_table(output_name(m, plan.key)) for m in members)
    h = table.filter(pc.equal(table["epoch"], epoch)).group_by("clip_id").aggregate([("score", "mean")])
    of_clip = dict(zip(h["clip_id"].to_pylist(), h["score_mean"].to_pylist(), strict=True))
    train = plan.clips.filter(pc.equal(plan.clips["split"], "train"))
    scores: dict[str, list[float]] = {}
    for machine, clip in zip(train["machine"].to_pylist(), train["clip_id"].to_pylist(), strict=True):
        scores.setdefault(machine, []).append(of_clip[clip])
    return {machine: np.array(values) for machine, values in scores.items()}


@ray.remote(max_retries=5)
def _external_part(folder: Store) -> Part:
    core_set = read_core_set(folder)
    assert core_set is not None
    return pack(samples_of(core_set.table))


def _work(plan: Plan, decoded: Decoded) -> Work:
    """The bank holds the usable clips in the order of the parts, then the external ones."""
    ids = decoded.usable()["clip_id"]
    clips = plan.clips.take(pc.index_in(ids, plan.clips["clip_id"].combine_chunks()))
    parts, external = list(decoded.parts), []
    if plan.core_set is not None and plan.core_set_folder is not None and len(plan.core_set.table):
        external = plan.core_set.table["clip_id"].to_pylist()
        parts.append(_external_part.remote(plan.core_set_folder))
    sets, graphs = list(plan.label_sets.values()), plan.study.cluster.cuda_graphs
    return make_work(plan.store, clips, plan.study.backend, sets, parts, external, graphs)


def _scores(plan: Plan) -> pa.Table:
    """One row per member, checkpoint and clip; a member that two groups share appears once."""
    scored = [member for member in plan.members.values() if not isinstance(member.recipe, EncoderRecipe)]
    tables = [member.folder(plan.store).read_table(output_name(member, plan.key)) for member in scored]
    return pa.concat_tables(tables).cast(SCORE_SCHEMA)
