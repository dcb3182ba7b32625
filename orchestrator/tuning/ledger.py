"""What is known of a search's trials: one small file each, written whole, so that no kill spoils a search."""

from typing import Any, Literal, NamedTuple

from orchestrator.errors import ConfigError
from orchestrator.members import digest
from orchestrator.storage import Store
from orchestrator.tuning.space import Point

IDENTITY = "search.json"
State = Literal["running", "finished", "stopped", "failed", "lost"]
ENDED: tuple[State, ...] = ("finished", "stopped", "failed")  # never run again; the others are taken up again


class Trial(NamedTuple):
    """One point and how far it came. `rungs` are its reports, the last one of a finished trial over all checkpoints."""

    number: int
    point: Point
    state: State = "running"
    rungs: tuple[dict[str, float], ...] = ()  # epoch, seconds and figures
    seconds: float = 0.0
    error: str = ""

    @property
    def title(self) -> str:
        return f"trial {self.number}"

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def figures(self) -> dict[str, float]:
        """Of its last report."""
        return {k: v for k, v in (self.rungs[-1] if self.rungs else {}).items() if k != "epoch"}

    @property
    def epoch(self) -> int:
        return int(self.rungs[-1]["epoch"]) if self.rungs else 0

    def reported(self, rung: dict[str, float]) -> "Trial":
        """With one more report; one that is repeated after a worker's death replaces the old one."""
        before = [old for old in self.rungs if old["epoch"] < rung["epoch"]]
        return self._replace(rungs=(*before, rung))


class TrialLedger:
    """The trials of one search, in memory and in its folder."""

    def __init__(self, store: Store) -> None:
        self.store, self.folder = store, store.child("trials")
        self.trials: dict[int, Trial] = {}
        for name in sorted(self.folder.names()):
            if name.endswith(".json") and not name.startswith("."):
                raw = self.folder.read_json(name)
                self.trials[raw["number"]] = Trial(**{**raw, "rungs": tuple(raw["rungs"])})

    def put(self, trial: Trial) -> None:
        self.trials[trial.number] = trial
        self.folder.write_json(f"{trial.number:04d}.json", trial._asdict())

    def ended(self) -> list[Trial]:
        return [trial for trial in self.in_order() if trial.ended]

    def in_order(self) -> list[Trial]:
        return [self.trials[index] for index in sorted(self.trials)]


def best(trials: list[Trial], metric: str) -> Trial | None:
    """The finished trial with the highest figure; the first of equals."""
    finished = [trial for trial in trials if trial.state == "finished" and metric in trial.figures]
    return max(finished, key=lambda trial: (trial.figures[metric], -trial.number), default=None)


def claim(store: Store, identity: dict[str, Any]) -> None:
    """Make the folder this search's own; ConfigError where it belongs to another one, with what differs."""
    plain = {name: value if isinstance(value, str) else digest(value) for name, value in identity.items()}
    if not store.exists(IDENTITY):
        store.write_json(IDENTITY, plain)
        return
    there = store.read_json(IDENTITY)
    differing = sorted(name for name in plain if name in there and there[name] != plain[name])
    if differing:
        raise ConfigError(
            f"{store.uri} holds a search whose {' and '.join(differing)} differ; its trials do not compare. Give "
            "another name=..., or go back to what was searched there (more `trials` and another `asha` are welcome)"
        )
    store.write_json(IDENTITY, {**there, **plain})
