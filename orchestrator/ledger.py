"""What a study tells MLflow, in order and beside the work: tracking never holds up training."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.config import Study
from orchestrator.loading import study_yaml
from orchestrator.members import DONE, digest
from orchestrator.provenance import code_version
from orchestrator.results import Results, SystemResult
from orchestrator.storage import Store
from orchestrator.tracking import Tracker

if TYPE_CHECKING:
    from orchestrator.study import Plan


class Ledger:
    """One background thread that logs the study, its members as they finish, and its systems at the end."""

    def __init__(self, study: Study, store: Store, say: Callable[[str], None]) -> None:
        self.study, self.store, self.say = study, store, say
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="tracking") if study.tracking.enabled else None
        self.tracker: Tracker | None = None
        self.logged: set[str] = set()
        self.calls: list[Future[Any]] = []

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if kind is not None and self.tracker is not None:
            self._later(self.tracker.finish, metrics={}, files=[], failed=True)
        if self.pool is not None:
            self.pool.shutdown(wait=True)
        bugs = [bug for call in self.calls if (bug := call.exception()) is not None]
        for bug in bugs[:1]:  # the tracker itself survives every fault of a server, so this one is ours
            self.say(f"tracking failed with an error of ours, please report it: {bug!r}")

    def _later(self, call: Callable[..., Any], *args: Any, **named: Any) -> None:
        if self.pool is not None:
            self.calls.append(self.pool.submit(call, *args, **named))

    def start(self, plan: "Plan") -> None:
        """Open (or find again) the study's run; a second call does nothing."""
        if self.pool is None or self.tracker is not None:
            return
        science = {"members": sorted(plan.members), "scores": plan.key, "systems": self.study.model_dump()["systems"]}
        self.tracker = Tracker(
            uri=tracking_uri(self.study),
            study=self.study.name,
            identity=digest(science),
            artifact_root=Path(self.study.storage).absolute() / "mlartifacts",
            warn=self.say,
        )
        self._later(
            self.tracker.start,
            tags={"asd.code": code_version(), "asd.data": next(iter(plan.members.values())).data},
            params={
                "classes": len(plan.vocabulary),
                "clips": len(plan.clips),
                "members": len(plan.members),
                "seeds": len(self.study.seeds),
                "backend.clusters": self.study.backend.clusters,
                "data.root": ", ".join(self.study.data.root),
            },
            artifacts={"study.yaml": study_yaml(self.study)},
        )

    def members(self, plan: "Plan", finished: Sequence[str]) -> None:
        """Log members that finished since the last call."""
        for member_hash in finished:
            if member_hash not in self.logged:
                self.logged.add(member_hash)
                self._later(self._log_member, plan, member_hash)

    def _log_member(self, plan: "Plan", member_hash: str) -> None:
        assert self.tracker is not None
        member = plan.members[member_hash]
        history = member.folder(self.store).read_json(DONE)["history"]
        self.tracker.log_member(
            system=home_system(self.study, member.group),
            member=member_hash,
            group=member.group,
            seed=member.seed,
            params=flatten(member.recipe.model_dump(mode="json")),
            history=history,
            metrics={"final_loss": history[-1]["loss"], "train_seconds": sum(row["seconds"] for row in history)},
        )

    def finish(self, plan: "Plan", results: Results) -> None:
        """Log every member and system (what is there already is not logged twice) and close the study's run."""
        self.members(plan, sorted(plan.members))
        if self.tracker is None:
            return
        for system in results.systems:
            self._later(
                self.tracker.log_system,
                system=system.name,
                params={"groups": ", ".join(self.study.systems[system.name].groups), "scores": system.scores},
                metrics=system_metrics(system),
                files=sorted(Path(self.store.child("systems", system.name).root).glob("*.csv")),
            )
        best = {"official_best": max((s.official or 0.0 for s in results.systems), default=0.0)}
        files = [
            Path(self.store.path(name)) for name in ("results.csv", "results.md", "scores.parquet", "clips.parquet")
        ]
        self._later(self.tracker.finish, metrics=best, files=files)

    def page(self) -> str:
        """How to look at the runs."""
        return self.tracker.page if self.tracker else "tracking is off (tracking.enabled=false)"


def home_system(study: Study, group: str) -> str:
    """The system whose run holds a group's member runs: the one with the fewest groups that uses it."""
    users = [name for name, system in study.systems.items() if group in system.groups]
    return min(users, key=lambda name: len(study.systems[name].groups)) if users else group


def tracking_uri(study: Study) -> str:
    return study.tracking.uri or f"sqlite:///{Path(study.storage).absolute() / 'mlflow.db'}"


def system_metrics(system: SystemResult) -> dict[str, float]:
    """Everything known about a row, under names that MLflow can compare across runs and studies."""
    metrics = {"official": system.official, "seed_mean": system.seed_mean, "seed_std": system.seed_std}
    metrics |= {f"rule/{rule}": value for rule, value in system.rules.items()}
    for place in system.places:
        metrics |= {f"{place.name}/{figure}": value for figure, value in place.figures.items()}
    return {name: value for name, value in metrics.items() if value is not None}


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dicts and lists as one level of dotted names."""
    if isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for key, item in items for k, v in flatten(item, f"{prefix}{key}.").items()}
    return {prefix.removesuffix("."): value}
