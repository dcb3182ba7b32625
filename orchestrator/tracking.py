"""What ran, with which settings and what came out, as MLflow runs: a study holds systems, a system holds its members.

MLflow is imported only when something is logged (`orchestrator.mlflow_client`). A run is found again by its tags, so a
repeated study logs what is missing and nothing twice. Whatever goes wrong here is said once and never stops the work.
"""

import json
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from types import MappingProxyType
from typing import Any, Concatenate, ParamSpec

from orchestrator.mlflow_client import connect, failures
from orchestrator.mlflow_limits import (
    METRICS_PER_REQUEST,
    PARAM_LENGTH,
    PARAMS_PER_REQUEST,
    TAG_LENGTH,
    chunks,
    cut,
    finite_number,
    safe_names,
    short_hash,
)

P = ParamSpec("P")
Say = Callable[[str], None]
Tags = Mapping[str, str]
Params = Mapping[str, object]
Values = Mapping[str, float]
History = Sequence[Values]
Parent = tuple[str, str]  # kind (system or stage), name
Points = Mapping[tuple[str, int], float]  # (metric name, step) -> value
NOTHING: Mapping[Any, Any] = MappingProxyType({})

EXPERIMENT_TAGS = {  # MLflow's pages for training, not for agents; and what to type there
    "mlflow.experimentKind": "custom_model_development",
    "mlflow.note.content": (
        "A run holds the study; below it are its systems (rows of the results), below those their members (seeds).\n\n"
        "To compare rows, filter by `tags.asd.kind = 'system'` and sort by `metrics.official`; to compare seeds, by "
        "`tags.asd.kind = 'member'`. Select runs and press *Compare* for charts and parallel coordinates."
    ),
}


@dataclass
class _Run:
    """One MLflow run and what is known to be in it."""

    id: str
    status: str
    tags: dict[str, str]
    params: set[str] = field(default_factory=set)
    metrics: set[str] = field(default_factory=set)


def _never_fails(method: Callable[Concatenate["Tracker", P], None]) -> Callable[Concatenate["Tracker", P], None]:
    """The method, one thread at a time, doing nothing once tracking has stopped."""

    @wraps(method)
    def guarded(tracker: "Tracker", /, *args: P.args, **named: P.kwargs) -> None:
        with tracker._lock:
            if tracker._stopped:
                return
            try:
                method(tracker, *args, **named)
            except failures() as error:
                tracker._stop(error)

    return guarded


class Tracker:
    """Logs one study to one MLflow store; `start` comes first, `finish` last.

    `uri` is `sqlite:///FILE` (made where absent; artifacts go below `artifact_root`) or a tracking server's address.
    The experiment is called like the study. `identity` is a hash of what is computed: it finds the same runs again.
    """

    def __init__(
        self, *, uri: str, study: str, identity: str, artifact_root: Path | None, warn: Say | None = None
    ) -> None:
        self.uri, self.study, self.identity, self.artifact_root = uri, study, identity, artifact_root
        self._shown_uri = re.sub(r"//[^/@]*@", "//***@", uri)  # passwords stay out of messages
        self._warn = warn or (lambda message: print(message, file=sys.stderr))
        self._lock, self._stopped = threading.Lock(), False
        self._experiment = ""
        self._runs: dict[tuple[str, str], _Run] = {}  # (kind, name) -> run
        self._rows = 0

    @property
    def page(self) -> str:
        """How to look at the runs: a command for a local store, an address for a server."""
        if self.uri.startswith(("http://", "https://")):
            return self._shown_uri.rstrip("/") + (f"/#/experiments/{self._experiment}" if self._experiment else "")
        return f"mlflow ui --backend-store-uri {self._shown_uri}"

    @_never_fails
    def start(self, *, tags: Tags, params: Params, artifacts: Mapping[str, str]) -> None:
        """Open the study's run, or find it again; `artifacts` maps file names to their text."""
        run = self._open_study()
        self._set_status(run, "RUNNING")
        self._log(run, params=params, tags=tags)
        contents = {name: text.encode() for name, text in artifacts.items()}
        self._upload(run, contents, lambda name: self._client.log_text(run.id, artifacts[name], name))

    @_never_fails
    def log_member(
        self, *, parent: Parent, member: str, title: str, params: Params, history: History, metrics: Values
    ) -> None:
        """Log a trained member below its system or stage; rows of `history` have an `epoch`, `metrics` are final."""
        kind, name = parent
        tags = {"mlflow.parentRunId": self._parent(kind, name).id, f"asd.{kind}": name, "asd.member": member}
        run = self._open("member", member, title=title, tags=tags)
        names = safe_names(dict.fromkeys([*(key for row in history for key in row), *metrics]))
        curve = {(names[k], int(row["epoch"])): v for row in history for k, v in row.items() if k != "epoch"}
        last = max((int(row["epoch"]) for row in history), default=0)
        final = {(names[k], last): v for k, v in metrics.items()}
        self._log(run, params=params, curve=curve, final=final)
        self._set_status(run, "FINISHED")

    @_never_fails
    def log_figures(self, *, member: str, metrics: Values) -> None:
        """Add to a logged member what it reaches alone, known when all recordings are scored."""
        self._log(self._runs["member", member], final=_at_zero(metrics), mark="asd.figures")

    @_never_fails
    def log_system(self, *, system: str, params: Params, metrics: Values, files: Sequence[Path]) -> None:
        """Log a row of the results; rows are numbered in the order of these calls."""
        self._rows += 1
        self._log_parent(("system", system), params, {"asd.row": str(self._rows)}, metrics, files)

    @_never_fails
    def log_stage(self, *, stage: str, params: Params, metrics: Values, files: Sequence[Path]) -> None:
        """Log what stands between members and rows: pseudo-labels, core-set."""
        self._log_parent(("stage", stage), params, NOTHING, metrics, files)

    def _log_parent(self, parent: Parent, params: Params, tags: Tags, metrics: Values, files: Sequence[Path]) -> None:
        run = self._parent(*parent)
        self._log(run, params=params, tags=tags, final=_at_zero(metrics))
        self._upload_files(run, files)
        self._set_status(run, "FINISHED")

    @_never_fails
    def log_table(self, *, name: str, columns: Mapping[str, Sequence[object]]) -> None:
        """Put a table where MLflow shows it as one, at the study's run; an older one of that name is replaced."""
        run = self._open_study()
        if name in run.tags.get("mlflow.loggedArtifacts", ""):  # log_table would append to it
            rows = [list(row) for row in zip(*columns.values(), strict=True)]
            self._client.log_text(run.id, json.dumps({"columns": list(columns), "data": rows}), name)
        else:
            self._client.log_table(run.id, dict(columns), name)
        self._set_status(run, "FINISHED")

    @_never_fails
    def finish(self, *, metrics: Values, files: Sequence[Path], failed: bool = False) -> None:
        """Close the study's run, and whatever of it is still open."""
        run = self._runs["study", self.study]
        self._log(run, final=_at_zero(metrics))
        self._upload_files(run, files)
        for each in self._runs.values():
            if each.status == "RUNNING":
                self._set_status(each, "FAILED" if failed else "FINISHED")

    def _stop(self, error: BaseException) -> None:
        self._stopped = True
        text = (str(error).strip() or type(error).__name__).splitlines()[0].replace(self.uri, self._shown_uri)
        reason = text.rpartition("Caused by ")[2][:300]  # requests buries the cause at the end of a long line
        self._warn(
            f"tracking stopped, {self._shown_uri}: {reason} - The work goes on without it; "
            "the next `asd run` of the same study logs what was missed"
        )

    def _open_study(self) -> _Run:
        """Connect, and open the study's run or find it again."""
        self._client = connect(self.uri)
        self._experiment = self._open_experiment()
        self._runs = dict(self._known_runs())
        return self._open("study", self.study, title=self.study, tags={})

    def _open_experiment(self) -> str:
        found = self._client.get_experiment_by_name(self.study)
        if found is not None and found.lifecycle_stage == "active":
            return str(found.experiment_id)
        local = self.artifact_root if self.uri.startswith("sqlite:") else None
        place = (local / self.study).absolute().as_uri() if local else None
        return str(self._client.create_experiment(self.study, artifact_location=place, tags=EXPERIMENT_TAGS))

    def _known_runs(self) -> Iterator[tuple[tuple[str, str], _Run]]:
        """The runs of this identity that exist, with one request per thousand."""
        query, token = f"tags.`asd.identity` = '{self.identity}'", None
        while token != "":
            page = self._client.search_runs([self._experiment], query, max_results=1000, page_token=token)
            for run in page:
                data = run.data
                known = _Run(run.info.run_id, run.info.status, dict(data.tags), set(data.params), set(data.metrics))
                yield (known.tags.get("asd.kind", ""), known.tags.get("asd.name", "")), known
            token = page.token or ""

    def _open(self, kind: str, name: str, *, title: str, tags: Tags) -> _Run:
        """The run of this kind and name: the one that exists, else a new one."""
        if (kind, name) not in self._runs:
            own = {"asd.identity": self.identity, "asd.study": self.study, "asd.kind": kind, "asd.name": name, **tags}
            made = self._client.create_run(self._experiment, tags=own, run_name=title)
            self._runs[kind, name] = _Run(made.info.run_id, "RUNNING", own)
        return self._runs[kind, name]

    def _parent(self, kind: str, name: str) -> _Run:
        tags = {"mlflow.parentRunId": self._runs["study", self.study].id, f"asd.{kind}": name}
        run = self._open(kind, name, title=name, tags=tags)
        if run.status != "FINISHED":  # one that an earlier attempt left as failed is under way again
            self._set_status(run, "RUNNING")
        return run

    def _set_status(self, run: _Run, status: str) -> None:
        if run.status == status:
            return
        if status == "RUNNING":
            self._client.update_run(run.id, status=status)
        else:
            self._client.set_terminated(run.id, status=status)
        run.status = status

    def _log(
        self,
        run: _Run,
        *,
        params: Params = NOTHING,
        tags: Tags = NOTHING,
        curve: Points = NOTHING,
        final: Points = NOTHING,
        mark: str = "asd.logged",
    ) -> None:
        """Add what the run lacks. A param never changes, a point of a curve neither; a final value may be corrected."""
        content = short_hash(repr((params, curve, final)).encode())
        if run.tags.get(mark) != content:
            self._log_params(run, params)
            self._log_points(run, curve, final)
        for name, value in {**tags, mark: content}.items():  # in this order: the mark stands for the rest
            if run.tags.get(name) != value:
                self._client.set_tag(run.id, name, cut(value, TAG_LENGTH))
                run.tags[name] = value

    def _log_params(self, run: _Run, params: Params) -> None:
        from mlflow.entities import Param

        names = safe_names(params)
        new = [Param(names[k], cut(str(v), PARAM_LENGTH)) for k, v in params.items() if names[k] not in run.params]
        for part in chunks(new, PARAMS_PER_REQUEST):
            self._client.log_batch(run.id, params=part, synchronous=True)
        run.params |= {param.key for param in new}

    def _log_points(self, run: _Run, curve: Points, final: Points) -> None:
        from mlflow.entities import Metric

        wanted = {place: finite_number(value) for place, value in {**curve, **final}.items()}
        there: dict[tuple[str, int], float] = {}
        for name in sorted({name for name, _ in wanted} & run.metrics):
            there |= {(name, m.step): m.value for m in self._client.get_metric_history(run.id, name)}
        new = [p for p in wanted if p not in there or (p in final and repr(wanted[p]) != repr(there[p]))]
        now = int(time.time() * 1000)
        for part in chunks([Metric(name, wanted[name, step], now, step) for name, step in new], METRICS_PER_REQUEST):
            self._client.log_batch(run.id, metrics=part, synchronous=True)
        run.metrics |= {name for name, _ in new}

    def _upload_files(self, run: _Run, files: Sequence[Path]) -> None:
        paths = {path.name: path for path in files}
        contents = {name: path.read_bytes() for name, path in paths.items()}
        self._upload(run, contents, lambda name: self._client.log_artifact(run.id, str(paths[name])))

    def _upload(self, run: _Run, contents: Mapping[str, bytes], send: Callable[[str], object]) -> None:
        """Send the artifacts that are not there as they are now; a tag of `name:content` hashes knows what is there."""
        there = dict(mark.split(":") for mark in run.tags.get("asd.files", "").split())
        marks = {short_hash(name.encode()): short_hash(data) for name, data in contents.items()}
        stale = [name for name in contents if there.get(short_hash(name.encode())) != marks[short_hash(name.encode())]]
        for name in stale:
            send(name)
        if stale:
            room = TAG_LENGTH // 34  # characters of a mark; files beyond that many are sent again each time
            known = " ".join([f"{name}:{data}" for name, data in {**there, **marks}.items()][:room])
            self._client.set_tag(run.id, "asd.files", known)
            run.tags["asd.files"] = known


def _at_zero(metrics: Values) -> Points:
    names = safe_names(metrics)
    return {(names[name], 0): value for name, value in metrics.items()}
