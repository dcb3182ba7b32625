"""What a study tells MLflow, in order and beside the work: tracking never holds up training."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.config import SCORES, Study
from orchestrator.data.clips import fingerprint
from orchestrator.loading import STUDY, read_study, study_yaml
from orchestrator.members import DONE, Member, digest
from orchestrator.provenance import code_version
from orchestrator.pseudo_labels import agreement_metrics
from orchestrator.recipes import EncoderRecipe, ExtractorRecipe
from orchestrator.results import Results, SystemResult, member_figures
from orchestrator.storage import Store, is_local
from orchestrator.tracking import Tracker

if TYPE_CHECKING:
    from orchestrator.plan import Plan

TRACKING = "tracking.json"  # under which identity MLflow knows the study's runs


class Ledger:
    """One background thread that logs the study, its members as they finish, and its systems at the end."""

    def __init__(self, study: Study, store: Store, say: Callable[[str], None]) -> None:
        self.study, self.store, self.say = study, store, say
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="tracking") if study.tracking.enabled else None
        self.tracker: Tracker | None = None
        self.logged: set[str] = set()
        self.calls: list[Future[Any]] = []
        self.temporary = tempfile.TemporaryDirectory(prefix="asd-ledger-")

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if kind is not None and self.tracker is not None:
            self._later(self.tracker.finish, metrics={}, files=[], failed=True)
        if self.pool is not None:
            self.pool.shutdown(wait=True)
        self.temporary.cleanup()
        bugs = [bug for call in self.calls if (bug := call.exception()) is not None]
        for bug in bugs[:1]:  # the tracker itself survives every fault of a server, so this one is ours
            self.say(f"tracking failed with an error of ours, please report it: {bug!r}")

    def _later(self, call: Callable[..., Any], *args: Any, **named: Any) -> None:
        if self.pool is not None:
            self.calls.append(self.pool.submit(call, *args, **named))

    def _copies(self) -> Path:
        """A new folder that lives as long as the ledger."""
        return Path(tempfile.mkdtemp(dir=self.temporary.name))

    def start(self, plan: "Plan") -> None:
        """Open (or find again) the study's run; a second call does nothing."""
        if self.pool is None or self.tracker is not None:
            return
        names = ("groups", "systems", "seeds", "pseudo_labels", "core_set")
        science = {"scores": plan.key, **{name: self.study.model_dump(mode="json")[name] for name in names}}
        self.store.write_json(TRACKING, {"identity": digest(science)})
        self.tracker = make_tracker(self.study, digest(science), self.say)
        self._later(
            self.tracker.start,
            tags={"asd.code": code_version(), "asd.data": fingerprint(plan.clips)},
            params={
                "clips": len(plan.clips),
                "groups": len(self.study.groups),
                "seeds": len(self.study.seeds),
                "backend.clusters": self.study.backend.clusters,
                "data.root": ", ".join(self.study.data.root),
            },
            artifacts={STUDY: study_yaml(self.study)},
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
        done = member.folder(self.store).read_json(DONE)
        history = done["history"]
        self.tracker.log_member(
            parent=home(self.study, member),
            member=member_hash,
            title=member.title,
            params=flatten(member.recipe.model_dump(mode="json"))
            | {"group": member.group, "seed": member.seed, **({"machine": member.machine} if member.machine else {})}
            | {f"made_on.{name}": value for name, value in done.get("made_on", {}).items()},
            history=history,
            metrics={"final_loss": history[-1]["loss"], "train_seconds": sum(row["seconds"] for row in history)},
        )

    def _log_figures(self, plan: "Plan", results: Results) -> None:
        assert self.tracker is not None
        for member in plan.members.values():
            if isinstance(member.recipe, ExtractorRecipe):  # the others hear one machine, or none
                figures = member_figures(member, plan.clips, results.scores, SCORES[member.recipe.kind][0])
                self.tracker.log_figures(member=member.hash, metrics=figures)

    def _stages(self, plan: "Plan") -> None:
        """Log the pseudo-labels with their pictures, and the core-set without its audio."""
        assert self.tracker is not None
        if plan.encoders:
            folder = plan.pseudo_labels_folder()
            names = sorted(name for name in folder.names() if name.endswith((".parquet", ".csv", ".png")))
            self._later(
                self.tracker.log_stage,
                stage="pseudo-labels",
                params=flatten(self.study.pseudo_labels.model_dump(mode="json")),
                metrics=agreement_metrics(folder),
                files=folder.local_copies(names, self._copies()),
            )
        if plan.core_set is not None and plan.core_set_folder is not None and self.study.core_set is not None:
            folder, summary = plan.core_set_folder, plan.core_set.summary
            figures = {"kept": summary["kept"], **{f"candidates/{k}": n for k, n in summary["candidates"].items()}}
            figures |= {f"kept/{machine}": sum(found.values()) for machine, found in summary["chosen"].items()}
            self._later(
                self.tracker.log_stage,
                stage="core-set",
                params=flatten(self.study.core_set.model_dump(mode="json", exclude={"classes"})),
                metrics={**figures, **{f"limit/{machine}": limit for machine, limit in summary["threshold"].items()}},
                files=folder.local_copies(("summary.json", "problems.csv"), self._copies()),
            )

    def finish(self, plan: "Plan", results: Results) -> None:
        """Log every member and system (what is there already is not logged twice) and close the study's run."""
        self.members(plan, sorted(plan.members))
        if self.tracker is None:
            return
        self._later(self._log_figures, plan, results)
        self._stages(plan)
        for system in results.systems:
            folder = self.store.child("systems", system.name)
            tables = sorted(name for name in folder.names() if name.endswith(".csv"))
            self._later(
                self.tracker.log_system,
                system=system.name,
                params={
                    "groups": ", ".join(self.study.systems[system.name].groups),
                    "scores": system.scores,
                    **flatten({"backend": self.study.backend.model_dump(mode="json")}),
                },
                metrics=system_metrics(system),
                files=folder.local_copies(tables, self._copies()),
            )
        best = {"official_best": max((s.official or 0.0 for s in results.systems), default=0.0)}
        tables = ["results.csv", "results.md", "scores.parquet", "clips.parquet"]
        self._later(self.tracker.finish, metrics=best, files=self.store.local_copies(tables, self._copies()))

    def page(self) -> str:
        """How to look at the runs."""
        return self.tracker.page if self.tracker else "tracking is off (tracking.enabled=false)"


def home(study: Study, member: Member) -> tuple[str, str]:
    """The run that holds a member's run: of the system with the fewest groups that uses it, or of the stage."""
    if isinstance(member.recipe, EncoderRecipe):
        return "stage", "pseudo-labels"
    users = [name for name, system in study.systems.items() if member.group in system.groups]
    return "system", min(users, key=lambda name: len(study.systems[name].groups)) if users else member.group


def make_tracker(study: Study, identity: str, say: Callable[[str], None]) -> Tracker:
    """A tracker of this study's runs."""
    return Tracker(
        uri=tracking_uri(study),
        study=study.name,
        identity=identity,
        artifact_root=local_home(study) / "mlartifacts",
        warn=say,
    )


def log_comparison(folder: str | Path, columns: Mapping[str, Sequence[str]], say: Callable[[str], None]) -> str:
    """Put a comparison's table at the MLflow run of the study in `folder`; returns how to look at it."""
    store = Store.at(folder)
    study = read_study(store)
    if not study.tracking.enabled or not store.exists(TRACKING):
        return "tracking is off (tracking.enabled=false)"
    tracker = make_tracker(study, store.read_json(TRACKING)["identity"], say)
    tracker.log_table(name="compare.json", columns=columns)
    return tracker.page


def tracking_uri(study: Study) -> str:
    return study.tracking.uri or f"sqlite:///{local_home(study) / 'mlflow.db'}"


def local_home(study: Study) -> Path:
    """Where MLflow's own files go unless a server has them: beside its database, which lies beside the studies.

    Where these are in a bucket: in results/ here.
    """
    database = (study.tracking.uri or "").partition("?")[0]
    if database.startswith("sqlite:///"):
        return Path(database.removeprefix("sqlite:///")).absolute().parent
    return Path(study.storage if is_local(study.storage) else "results").absolute()


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
