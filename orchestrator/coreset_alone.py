"""The core-set of a study on its own: `asd coreset`."""

from orchestrator.config import Study
from orchestrator.coreset import CoreSet
from orchestrator.data.audioset import find_shards
from orchestrator.errors import ConfigError, DataError
from orchestrator.ledger import Ledger
from orchestrator.loading import study_store
from orchestrator.lock import only_writer
from orchestrator.plan import Plan, scanned_plan
from orchestrator.runtime import ray_session
from orchestrator.stages import Session, View, choose
from orchestrator.storage import Store


def choose_alone(study: Study, view: View) -> tuple[CoreSet, Store]:
    """Algorithm 2 against a study whose h is trained; a later `asd run` finds the same core-set and trains on it."""
    if study.core_set is None:
        raise ConfigError("the study has no `core_set` block; add one with `sources` and `group`")
    shards = find_shards(study.core_set)
    store = study_store(study)
    with only_writer(store):
        plan = scanned_plan(study, store, shards)
        _check_chooser(plan, study.core_set.group)
        with Ledger(study, store, view.say) as ledger, ray_session(study.cluster):
            assert plan.core_set_folder is not None
            return choose(Session(study, store, shards, ledger, view), plan), plan.core_set_folder


def _check_chooser(plan: Plan, group: str) -> None:
    """DataError where h is not trained to its end."""
    if group in plan.waiting:
        raise DataError(f"core_set.group {group} waits for {plan.waiting[group]}; run `asd run` on this study first")
    left = [member.title for member in plan.groups[group] if not plan.is_through(member)]
    if left:
        raise DataError(f"core_set.group: {', '.join(left)} not trained and scored; run `asd run` on this study first")
