"""Which point to try next: a grid, random points, or TPE, which learns from the trials that ended."""

import itertools
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState, create_trial

from orchestrator.members import digest
from orchestrator.tuning.config import Search
from orchestrator.tuning.ledger import Trial
from orchestrator.tuning.space import (
    Choice,
    Integer,
    LogInteger,
    LogUniform,
    Point,
    Space,
    Uniform,
    at_random,
    grid,
)

OPTUNA_STATES = {"finished": TrialState.COMPLETE, "stopped": TrialState.PRUNED, "failed": TrialState.FAIL}


class Proposer(Protocol):
    """Gives points for trials, and is told of those that began or ended."""

    patience: int  # how many points may wait for their turn before the next is made

    def propose(self, number: int) -> Point: ...
    def take_up(self, trial: Trial) -> None: ...
    def learn(self, trial: Trial) -> None: ...


class Listed:
    """Points that are known from the start, by grid or at random; nothing is learned."""

    patience = 1000

    def __init__(self, points: Iterable[Point]) -> None:
        self.points = list(points)

    def propose(self, number: int) -> Point:
        return self.points[number]

    def take_up(self, trial: Trial) -> None:
        """A trial of an earlier run goes on."""

    def learn(self, trial: Trial) -> None:
        """A trial ended."""


class Tpe:
    """Optuna's tree-structured Parzen estimator; all that it knows is told again when a search goes on."""

    patience = 1  # the next point is made when it is needed, by all that is known then

    def __init__(self, search: Search, known: Iterable[Trial]) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.space, self.metric = search.space, search.metric
        ended = [trial for trial in known if trial.ended]
        # another seed after each restart: the same would draw the first random points once more
        seed = int(digest([search.seed, len(ended)])[:7], 16)
        sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        self.study = optuna.create_study(direction="maximize", sampler=sampler)
        self.running: dict[int, optuna.trial.Trial] = {}
        for trial in ended:
            self.study.add_trial(as_optuna(trial, self.space, self.metric))

    def propose(self, number: int) -> Point:
        self.running[number] = self.study.ask(distributions(self.space))
        return from_optuna(self.running[number].params, self.space)

    def take_up(self, trial: Trial) -> None:
        """A trial of an earlier run goes on: known as running, so that nothing near it is tried beside it."""
        self.study.enqueue_trial(to_optuna(trial.point, self.space))
        self.running[trial.number] = self.study.ask(distributions(self.space))

    def learn(self, trial: Trial) -> None:
        """A trial ended, or its worker did."""
        asked = self.running.pop(trial.number)
        for rung in trial.rungs:
            if self.metric in rung:
                asked.report(rung[self.metric], int(rung["epoch"]))
        value = trial.figures.get(self.metric) if trial.state == "finished" else None
        state = OPTUNA_STATES.get(trial.state, TrialState.FAIL)
        self.study.tell(asked, value, TrialState.FAIL if state == TrialState.COMPLETE and value is None else state)


def make_proposer(search: Search, known: Iterable[Trial]) -> Proposer:
    """The proposer of a search, which knows the trials of its earlier runs."""
    if search.method == "optuna":
        return Tpe(search, known)
    return Listed(listed_points(search))


def listed_points(search: Search) -> list[Point]:
    """All points of a grid or random search, which depend on nothing but the search file."""
    points = grid(search.space) if search.method == "grid" else at_random(search.space, search.seed)
    return list(itertools.islice(points, search.total))


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """The space as Optuna knows it; a choice is told by the number of its value, which may be a list or a mapping."""
    return {field: _distribution(domain) for field, domain in space.items()}


def _distribution(domain: Any) -> BaseDistribution:
    if isinstance(domain, Choice):
        return CategoricalDistribution(range(len(domain.choice)))
    if isinstance(domain, Integer | LogInteger):
        low, high = (int(bound) for bound in domain.bounds)
        return IntDistribution(low, high, log=isinstance(domain, LogInteger))
    assert isinstance(domain, Uniform | LogUniform)
    return FloatDistribution(*domain.bounds, log=isinstance(domain, LogUniform))


def to_optuna(point: Point, space: Space) -> dict[str, Any]:
    """The parameters that stand for a point."""
    return {field: _number(domain, point[field]) for field, domain in space.items()}


def _number(domain: Any, value: Any) -> Any:
    if not isinstance(domain, Choice):
        return value
    return [digest(option) for option in domain.choice].index(digest(value))


def from_optuna(params: Mapping[str, Any], space: Space) -> Point:
    """The point that parameters stand for."""
    return {f: d.choice[params[f]] if isinstance(d, Choice) else params[f] for f, d in space.items()}


def as_optuna(trial: Trial, space: Space, metric: str) -> optuna.trial.FrozenTrial:
    """An ended trial as Optuna keeps it."""
    value = trial.figures.get(metric)
    state = OPTUNA_STATES[trial.state]
    if state == TrialState.COMPLETE and value is None:
        state = TrialState.FAIL
    return create_trial(
        state=state,
        value=value if state == TrialState.COMPLETE else None,
        params=to_optuna(trial.point, space),
        distributions=distributions(space),
        intermediate_values={int(rung["epoch"]): rung[metric] for rung in trial.rungs if metric in rung},
    )


def importance(trials: Iterable[Trial], space: Space, metric: str) -> dict[str, float]:
    """How much of the metric's variance each field explains (fANOVA), empty where there are too few trials to say."""
    done = [trial for trial in trials if trial.state == "finished" and metric in trial.figures]
    if len(done) < max(8, 3 * len(space)) or len({trial.figures[metric] for trial in done}) < 2:
        return {}
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize")
    study.add_trials([as_optuna(trial, space, metric) for trial in done])
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))
