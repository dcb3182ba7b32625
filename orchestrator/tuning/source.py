"""Between Ray Tune and the ledger: which trial comes next, what is known of each, and what a search learns from it."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import Searcher

from orchestrator.errors import ConfigError
from orchestrator.members import is_done
from orchestrator.plan import Plan
from orchestrator.storage import Store
from orchestrator.tuning.figures import Figures
from orchestrator.tuning.ledger import Trial, TrialLedger
from orchestrator.tuning.proposals import Proposer
from orchestrator.tuning.template import Template
from orchestrator.tuning.trial import AGAIN, ERROR, STEP, plan_trial

FINISHED: Any = Searcher.FINISHED
NO_WORKER = "its worker died too often"


class TrialSource(Searcher):
    """Gives Ray Tune one trial after another, and writes down what comes back.

    Trials that would train the same member never run beside each other: the later one waits, and then finds the member
    there. Ray Tune's own state is not kept, the ledger is: whatever ended is never run again.
    """

    def __init__(
        self,
        *,
        template: Template,
        store: Store,
        clips: pa.Table,
        ledger: TrialLedger,
        proposer: Proposer,
        at_a_time: int,
        on_end: Callable[[Trial], None],
    ) -> None:
        super().__init__()
        self.template, self.store, self.clips = template, store, clips
        self.ledger, self.proposer, self.at_a_time, self.on_end = ledger, proposer, at_a_time, on_end
        self.epochs: dict[int, int] = {}  # a trial's last
        self.running: dict[str, int] = {}  # Ray Tune's id -> number
        self.plans: dict[int, Plan] = {}
        self.waiting = [trial.number for trial in ledger.in_order() if not trial.ended]
        for number in self.waiting:
            proposer.take_up(ledger.trials[number])
        self.waiting = [number for number in self.waiting if self._prepare(ledger.trials[number])]
        self.next = max(ledger.trials, default=-1) + 1

    # What Ray Tune calls

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The next trial, None where all that are left must wait, or the word FINISHED."""
        if len(self.running) >= self.at_a_time:
            return None
        number = next(filter(self._free, self.waiting), None)
        while number is None and self._may_propose():
            new = self._propose()
            number = new if new is not None and self._free(new) else None
        if number is None:
            return None if self.waiting or self.running else FINISHED
        self.waiting.remove(number)
        self.running[trial_id] = number
        self.ledger.put(self.ledger.trials[number]._replace(state="running", error=""))
        return {"number": number, "point": self.ledger.trials[number].point}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """A rung was reached."""
        self._record(self.running[trial_id], result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A trial reached its end, was stopped early, failed, or lost its worker."""
        number = self.running.pop(trial_id)
        if result is not None and not error:
            self._record(number, result)
        trial = self.ledger.trials[number]
        if error or (result or {}).get(AGAIN) or not (trial.rungs or trial.error):
            trial = trial._replace(state="lost", error=trial.error or NO_WORKER)
        elif trial.error:
            trial = trial._replace(state="failed")
        else:
            trial = trial._replace(state="finished" if trial.epoch >= self.epochs[number] else "stopped")
        self._end(trial)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray Tune writes down what it would need to go on, but the ledger knows all."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger knows all."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the ledger knows all."""

    # Ours

    @property
    def left(self) -> int:
        """Trials that have not ended."""
        return self.template.search.total - len(self.ledger.ended())

    def passes_left(self) -> float:
        """Work of the trials that have not ended, in clips through a network; those not yet known count as the mean.

        Members that several trials share are counted once.
        """
        plans = list(self.plans.values())
        members = {member.hash: (plan, member) for plan in plans for member in plan.members.values()}
        known = sum(sum(plan.work_left(member)) for plan, member in members.values())
        return known + max(self.left - len(plans), 0) * known / max(len(plans), 1)

    def _record(self, number: int, result: dict[str, Any]) -> None:
        figures = {name: float(result[name]) for name in Figures._fields if name in result}
        trial = self.ledger.trials[number]
        if ERROR in result:
            trial = trial._replace(error=str(result[ERROR]), seconds=float(result["seconds"]))
        else:
            rung = {STEP: float(result[STEP]), **figures}
            trial = trial.reported(rung)._replace(seconds=float(result["seconds"]))
        self.ledger.put(trial)

    def _may_propose(self) -> bool:
        return self.next < self.template.search.total and len(self.waiting) < self.proposer.patience

    def _propose(self) -> int | None:
        """A new trial, or None where its point turns out to be no valid study."""
        number, self.next = self.next, self.next + 1
        trial = Trial(number, self.proposer.propose(number))
        self.ledger.put(trial)
        if not self._prepare(trial):
            return None
        self.waiting.append(number)
        return number

    def _prepare(self, trial: Trial) -> bool:
        """Learn what a trial will train; a point that is no valid study ends here."""
        try:
            study = self.template.study_of(trial.point)
        except ConfigError as error:
            self._end(trial._replace(state="failed", error=str(error)))
            return False
        self.epochs[trial.number] = study.groups[self.template.search.group].epochs
        self.plans[trial.number] = plan_trial(study, self.store, self.clips)
        return True

    def _free(self, number: int) -> bool:
        """Whether nothing that this trial would train is being trained by another."""
        busy = set[str]().union(*(self._to_train(other) for other in self.running.values()))
        return not busy & self._to_train(number)

    def _to_train(self, number: int) -> set[str]:
        plan = self.plans[number]
        stages = {plan.pseudo_labels_folder().root} if plan.waiting else set()
        return stages | {member.hash for member in plan.members.values() if not is_done(member.folder(self.store))}

    def _end(self, trial: Trial) -> None:
        self.ledger.put(trial)
        self.plans.pop(trial.number, None)
        self.proposer.learn(trial)
        self.on_end(trial)


def make_scheduler(template: Template, ledger: TrialLedger, max_epochs: int) -> ASHAScheduler | None:
    """ASHA, which is told what the ended trials had reported at each rung; None where no trial is to be stopped."""
    search = template.search
    if search.asha is None or search.asha.grace_epochs >= max_epochs:
        return None
    scheduler = ASHAScheduler(
        time_attr=STEP,
        metric=search.metric,
        mode="max",
        max_t=max_epochs,
        grace_period=search.asha.grace_epochs,
        reduction_factor=search.asha.reduction,
    )
    nobody: Any = None
    for trial in ledger.ended():
        replayed: Any = SimpleNamespace(trial_id=f"earlier-{trial.number}")
        scheduler.on_trial_add(nobody, replayed)
        for rung in trial.rungs:
            scheduler.on_trial_result(nobody, replayed, rung)
    return scheduler
