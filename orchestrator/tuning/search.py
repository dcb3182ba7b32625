"""`run_search`: check everything, decode once, try the points that are left, and write down what is best."""

import logging
import os
import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from ray import tune

from orchestrator.config import BackendConfig, Study
from orchestrator.data.dcase import find_clips
from orchestrator.decoding import Decoded, decode_on_ray
from orchestrator.devices import graphs_note
from orchestrator.errors import DataError, TrainingError
from orchestrator.loading import study_store
from orchestrator.lock import only_writer
from orchestrator.member_queue import MemberQueue
from orchestrator.plan import CLIPS, checked_clips
from orchestrator.runtime import busy_note, find_slots, ray_session
from orchestrator.scoring import few_clips_note, scoring_key
from orchestrator.storage import Store
from orchestrator.tuning.config import Search, mistakes
from orchestrator.tuning.display import SearchDisplay
from orchestrator.tuning.figures import development_rows
from orchestrator.tuning.ledger import Trial, TrialLedger, claim
from orchestrator.tuning.outcome import SearchOutcome, write_outcome
from orchestrator.tuning.proposals import listed_points, make_proposer
from orchestrator.tuning.source import TrialSource, make_scheduler
from orchestrator.tuning.space import corners
from orchestrator.tuning.template import Template, check_points, make_template
from orchestrator.tuning.tracking import SearchTracking
from orchestrator.tuning.trial import Ground, try_out

MOST_CHECKED = 300  # points that are read as studies before a search starts


def run_search(search: Search, place: Path, view: SearchDisplay) -> SearchOutcome:
    """Run a search that was read from `place`, or go on with it; raise its `trials` to extend it.

    ConfigError names every mistake before anything is written; DataError where the metric cannot be had of the data;
    TrainingError where no trial finished.
    """
    template = make_template(search, place)
    studies = check_points(template, _points_to_check(search), place)
    base = template.study_of({})
    found = find_clips(base.data.root)
    for note in found.notes:
        view.say(f"note: {note}")
    _check_early(search, base, found.clips, place)
    store = study_store(studies[0])
    with only_writer(store):
        identity = _identity(template, base)
        claim(store, identity)
        ledger = TrialLedger(store)
        with SearchTracking(studies[0], search, identity, view.say) as tracking:
            if search.total > len(ledger.ended()):
                with ray_session(base.cluster):
                    max_epochs = max(study.groups[search.group].epochs for study in studies)
                    _try_all(template, store, ledger, found.clips, max_epochs, tracking, view)
            outcome = SearchOutcome(template, store, ledger.in_order(), tracking.page)
            _check_any(outcome)
            write_outcome(outcome)
            _say_lost(outcome, view)
            tracking.finish(outcome)
        return outcome._replace(tracking_page=tracking.page)


def _points_to_check(search: Search) -> list[dict[str, Any]]:
    """The points that will be tried, as far as they are known; of Optuna's, each value at least once."""
    points = list(corners(search.space)) if search.method == "optuna" else listed_points(search)
    return points[:MOST_CHECKED]


def _check_early(search: Search, base: Study, found: pa.Table, place: Path) -> None:
    """What the file names alone tell about the metric."""
    machines = set(found["machine"].to_pylist())
    if search.wants_label_free and len(machines) < 2:
        only = next(iter(machines), "no machine")
        raise mistakes(place, [f"metric: label_free needs other machines' sounds, and {only} is alone; use official"])
    if search.metric != "label_free" and not base.data.truth and not len(development_rows(found)):
        raise _no_labels(search)


def _no_labels(search: Search) -> DataError:
    return DataError(
        f"metric {search.metric} needs machines whose test clips are known, both normal and anomalous ones; there is "
        "none. Give their truth as data.truth=TABLE, or use metric=label_free (see docs/search.md)"
    )


def _identity(template: Template, base: Study) -> dict[str, Any]:
    """What must not change between the runs of a search: its trials would not compare."""
    search = template.search
    recipe = base.groups[search.group].model_dump(mode="json")
    shared = base.model_dump(mode="json", include={"seeds", "backend", "pseudo_labels"})
    space = {field: domain.model_dump(mode="json") for field, domain in search.space.items()}
    named = {name: str(getattr(search, name)) for name in ("method", "seed", "metric")}
    return {"study": [recipe, shared], "space": [space, list(space)], **named, "snr_db": f"{search.snr_db:g}"}


def _try_all(
    template: Template,
    store: Store,
    ledger: TrialLedger,
    found: pa.Table,
    max_epochs: int,
    tracking: SearchTracking,
    view: SearchDisplay,
) -> None:
    search, study = template.search, template.study_of({})
    left = search.total - len(ledger.ended())
    slots = find_slots(study.cluster, left)
    for note in filter(None, (busy_note(slots), graphs_note(study.cluster.cuda_graphs, slots.gpus > 0))):
        view.say(f"note: {note}")
    decoded, clips = _decode(study, store, found, view)
    if search.metric != "label_free" and not len(development_rows(clips)):
        raise _no_labels(search)
    claim(store, {"data": scoring_key(BackendConfig(), clips)})
    view.say(
        f"{left} of {search.total} trials to do, {slots.number} at a time with {slots.cpus:g} CPU + {slots.gpus:g} GPU"
    )

    def ended(trial: Trial) -> None:
        tracking.trial(trial)
        view.trial_ended(trial, ledger.in_order(), search.total, search.metric)

    source = TrialSource(
        template=template,
        store=store,
        clips=clips,
        ledger=ledger,
        proposer=make_proposer(search, ledger.in_order()),
        at_a_time=max(slots.number, slots.most),
        on_end=ended,
    )
    board = MemberQueue.remote([])  # type: ignore[attr-defined]
    ground = Ground(template, store, clips, decoded.parts, slots, board)
    with view.watch(board, source):
        reasons = _fit(ground, source, make_scheduler(template, ledger, max_epochs), study.cluster.max_failures)
    for reason in dict.fromkeys(reasons):
        view.say(f"note: a worker was lost: {reason}")


def _decode(study: Study, store: Store, found: pa.Table, view: SearchDisplay) -> tuple[Decoded, pa.Table]:
    """Every recording once, for all trials; the clips come in the order of the waveforms."""
    view.say(f"decoding {len(found)} recordings, once for all trials")
    decoded = decode_on_ray(found, study.data.min_seconds)
    checked = checked_clips(decoded.clips, study.data)
    store.write_table(CLIPS, decoded.clips)
    if note := few_clips_note(checked, study.backend):
        view.say(f"note: {note}")
    rows = pc.index_in(decoded.usable()["clip_id"], checked["clip_id"].combine_chunks())
    return decoded, checked.take(rows)


def _fit(ground: Ground, source: TrialSource, scheduler: Any, max_failures: int) -> list[str]:
    """Let Ray Tune try what the source gives, keeping no results of its own; returns why workers were lost."""
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # its tables; ours say more
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a lost worker is told by the notes, without its stack
    slots, store = ground.slots, ground.store
    resources = {"CPU": slots.cpus, **({"GPU": slots.gpus} if slots.gpus else {})}
    results = tune.Tuner(
        tune.with_resources(tune.with_parameters(try_out, ground=ground), resources),
        tune_config=tune.TuneConfig(search_alg=source, scheduler=scheduler, num_samples=source.left, reuse_actors=True),
        run_config=tune.RunConfig(
            name=f"search-{uuid.uuid4().hex[:12]}",
            storage_path=store.child("ray_tune").root,
            storage_filesystem=None if store.is_local else store.files,
            failure_config=tune.FailureConfig(max_failures=max_failures),
            verbose=0,
        ),
    ).fit()
    return [(str(error).strip().splitlines() or [type(error).__name__])[-1] for error in results.errors]


def _say_lost(outcome: SearchOutcome, view: SearchDisplay) -> None:
    """Trials that another run of the same command may end."""
    lost = [trial for trial in outcome.trials if not trial.ended]
    if lost:
        names = ", ".join(str(trial.number) for trial in lost)
        view.say(f"note: {len(lost)} trial(s) did not end ({names}); run the same command again to take them up")


def _check_any(outcome: SearchOutcome) -> None:
    """TrainingError with the reasons, where there is nothing to choose from."""
    if outcome.best is None:
        reasons = dict.fromkeys(f"{t.title}: {t.error}" for t in outcome.trials if t.error)
        raise TrainingError("no trial finished:\n" + "\n".join(reasons))
