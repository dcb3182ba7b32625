"""A search in MLflow: one parent run, and a run of its own for every trial that ended."""

import tempfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from orchestrator.config import Study
from orchestrator.ledger import make_tracker
from orchestrator.members import digest
from orchestrator.provenance import code_version
from orchestrator.tracking import Tracker
from orchestrator.tuning.config import Search
from orchestrator.tuning.ledger import Trial
from orchestrator.tuning.outcome import BEST, IMPORTANCE, TRIALS, SearchOutcome
from orchestrator.tuning.template import as_text


class SearchTracking:
    """One background thread that logs a search; a repeated search logs what is missing and nothing twice."""

    def __init__(self, study: Study, search: Search, identity: dict[str, Any], say: Callable[[str], None]) -> None:
        self.search, self.say = search, say
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="tracking") if study.tracking.enabled else None
        self.tracker: Tracker | None = make_tracker(study, digest(identity), say) if self.pool else None
        self.calls: list[Future[Any]] = []
        self.closed = False

    def __enter__(self) -> "SearchTracking":
        if self.tracker is not None:
            self._later(
                self.tracker.start,
                tags={"asd.code": code_version(), "asd.search": self.search.name},
                params={name: getattr(self.search, name) for name in ("method", "metric", "seed", "group")},
                artifacts={"search.json": self.search.model_dump_json(indent=2)},
            )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self.tracker is not None and not self.closed:
            self._later(self.tracker.finish, metrics={}, files=[], failed=True)
        if self.pool is not None:
            self.pool.shutdown(wait=True)
        bugs = [bug for call in self.calls if (bug := call.exception()) is not None]
        for bug in bugs[:1]:
            self.say(f"tracking failed with an error of ours, please report it: {bug!r}")

    def _later(self, call: Callable[..., Any], *args: Any, **named: Any) -> None:
        assert self.pool is not None
        self.calls.append(self.pool.submit(call, *args, **named))

    def trial(self, trial: Trial) -> None:
        """Log a trial that ended; one without a worker will run again and is logged then."""
        if self.tracker is None or not trial.ended:
            return
        values = {field: as_text(value) for field, value in trial.point.items()}
        rungs = {
            f"{name}/epoch {int(r['epoch'])}": v for r in trial.rungs[:-1] for name, v in r.items() if name != "epoch"
        }
        self._later(
            self.tracker.log_stage,
            stage=trial.title,
            params={**values, "state": trial.state, **({"problem": trial.error} if trial.error else {})},
            metrics={**trial.figures, **rungs, "epochs": trial.epoch, "seconds": trial.seconds},
            files=[],
        )

    def finish(self, outcome: SearchOutcome) -> None:
        """Log every trial (what is there already is not logged twice), then the tables, and close the parent."""
        if self.tracker is None:
            return
        for trial in outcome.trials:
            self.trial(trial)
        best = {self.search.metric: outcome.best.figures[self.search.metric]} if outcome.best else {}
        finished = {"trials": float(sum(trial.ended for trial in outcome.trials))}
        names = [name for name in (TRIALS, BEST, IMPORTANCE) if outcome.store.exists(name)]
        with tempfile.TemporaryDirectory(prefix="asd-search-") as folder:
            files = outcome.store.local_copies(names, Path(folder))
            self._later(self.tracker.finish, metrics={**best, **finished}, files=files)
            self.closed = True
            self.calls[-1].exception()  # the copies live until they are sent

    @property
    def page(self) -> str:
        return self.tracker.page if self.tracker else "tracking is off (tracking.enabled=false)"
