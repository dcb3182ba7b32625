"""MLflow runs: nested, found again, nothing twice, and never in the way. A real SQLite store and a real server."""

import math
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow_server import Server
from support import free_port

from orchestrator.mlflow_client import connect
from orchestrator.mlflow_limits import NAME_LENGTH, safe_names
from orchestrator.tracking import Tracker

HISTORY = [{"epoch": e, "loss": 20 / e, "loss/z(cat)#1": 1.0 * e} for e in (1, 2, 3)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tracking")


@pytest.fixture(scope="module")
def uri(folder: Path) -> str:
    address = f"sqlite:///{folder}/new/folder/mlflow.db"
    connect(address).search_experiments()  # makes the folder and the tables
    return address


@pytest.fixture(scope="module", autouse=True)
def server(uri: str, folder: Path) -> Iterator[Server]:
    """Starting takes many seconds: it does so while the tests that need no server run."""
    one = Server(uri, folder)
    try:
        one.launch()
        yield one
    finally:
        one.down()


def tracker(uri: str, folder: Path, study: str, said: list[str] | None = None, identity: str = "abc") -> Tracker:
    warn = said.append if said is not None else pytest.fail
    return Tracker(uri=uri, study=study, identity=identity, artifact_root=folder / "artifacts", warn=warn)


def start(one: Tracker, text: str = "name: demo\n") -> Tracker:
    one.start(tags={"asd.code": "v1"}, params={"clips": 12}, artifacts={"study.yaml": text})
    return one


def member(one: Tracker, name: str = "m0", history: Any = HISTORY, **named: Any) -> None:
    told = {"params": {"epochs": 3}, "metrics": {"train_seconds": 6.5}, **named}
    one.log_member(parent=("system", "sys"), member=name, title="mixup seed 3", history=history, **told)


def runs(uri: str, study: str) -> dict[str, Any]:
    """Every run of an experiment by its name; two of one name are a failure."""
    client = connect(uri)
    found = list(client.search_runs([client.get_experiment_by_name(study).experiment_id]))
    named = {run.info.run_name: run for run in found}
    assert len(named) == len(found)
    return named


def points(uri: str, run: Any, metric: str) -> list[tuple[int, float]]:
    return sorted((m.step, m.value) for m in connect(uri).get_metric_history(run.info.run_id, metric))


def text(uri: str, run: Any, name: str) -> str:
    client = connect(uri)
    root = client.get_run(run.info.run_id).info.artifact_uri
    return (Path(root.removeprefix("file://")) / name).read_text()


def test_importing_does_not_import_mlflow() -> None:
    code = "import sys, orchestrator.tracking; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_study_is_read_back_as_three_levels(uri: str, folder: Path) -> None:
    report = folder / "scores.csv"
    report.write_text("clip,score\n")
    one = start(tracker(uri, folder, "nested"))
    member(one)
    one.log_system(system="sys", params={"groups": "mixup"}, metrics={"official": 64.42}, files=[report])
    one.log_system(system="other", params={}, metrics={"official": 60.0}, files=[])
    one.finish(metrics={"official_best": 64.42}, files=[])
    found = runs(uri, "nested")
    assert set(found) == {"nested", "sys", "other", "mixup seed 3"}
    study, system, leaf = found["nested"], found["sys"], found["mixup seed 3"]
    assert "mlflow.parentRunId" not in study.data.tags
    assert system.data.tags["mlflow.parentRunId"] == study.info.run_id
    assert leaf.data.tags["mlflow.parentRunId"] == system.info.run_id
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    assert [found[name].data.tags["asd.row"] for name in ("sys", "other")] == ["1", "2"]
    assert [run.data.tags["asd.kind"] for run in (study, system, leaf)] == ["study", "system", "member"]
    assert (leaf.data.tags["asd.system"], leaf.data.tags["asd.member"]) == ("sys", "m0")
    assert leaf.data.params == {"epochs": "3"}
    assert points(uri, leaf, "loss") == [(1, 20.0), (2, 10.0), (3, 20 / 3)]
    assert points(uri, leaf, "loss/z_cat__1") == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert points(uri, leaf, "train_seconds") == [(3, 6.5)]
    assert study.data.params == {"clips": "12"}
    assert study.data.tags["asd.code"] == "v1"
    assert text(uri, study, "study.yaml") == "name: demo\n"
    assert text(uri, system, "scores.csv") == "clip,score\n"
    assert one.page == f"mlflow ui --backend-store-uri {uri}"


def test_an_interrupted_study_goes_on_in_the_same_runs_without_doubles(uri: str, folder: Path) -> None:
    first = start(tracker(uri, folder, "resumed"))
    member(first, history=HISTORY[:2], metrics={})
    first.finish(metrics={}, files=[], failed=True)
    before = runs(uri, "resumed")
    assert [before[name].info.status for name in ("resumed", "sys", "mixup seed 3")] == ["FAILED", "FAILED", "FINISHED"]
    second = start(tracker(uri, folder, "resumed"))
    member(second, params={"epochs": 99, "added": 1})
    going = runs(uri, "resumed")
    assert [going[name].info.status for name in ("resumed", "sys")] == ["RUNNING", "RUNNING"]
    for _ in range(2):
        member(second)
        second.log_figures(member="m0", metrics={"official": 61.0})
        second.log_system(system="sys", params={}, metrics={"official": 64.0}, files=[])
    second.finish(metrics={}, files=[])
    after = runs(uri, "resumed")
    assert {run.info.run_id for run in after.values()} == {run.info.run_id for run in before.values()}
    leaf = after["mixup seed 3"]
    assert points(uri, leaf, "loss") == [(1, 20.0), (2, 10.0), (3, 20 / 3)]
    assert points(uri, leaf, "train_seconds") == [(3, 6.5)]
    assert points(uri, leaf, "official") == [(0, 61.0)]
    assert leaf.data.params == {"epochs": "3", "added": "1"}, "params are immutable"
    assert points(uri, after["sys"], "official") == [(0, 64.0)]
    assert {run.info.status for run in after.values()} == {"FINISHED"}


def test_a_final_value_that_changed_is_corrected_and_a_curve_is_not(uri: str, folder: Path) -> None:
    one = start(tracker(uri, folder, "corrected"))
    member(one, metrics={"official": 60.0})
    time.sleep(0.002)  # MLflow shows the latest by time in milliseconds
    two = start(tracker(uri, folder, "corrected"))
    member(two, metrics={"official": 59.0}, history=[{"epoch": 3, "loss": 7.0}])
    leaf = runs(uri, "corrected")["mixup seed 3"]
    assert leaf.data.metrics["official"] == 59.0
    assert points(uri, leaf, "loss")[-1] == (3, 20 / 3)


def test_another_identity_has_runs_of_its_own_in_the_same_experiment(uri: str, folder: Path) -> None:
    for identity in ("one", "two"):
        start(tracker(uri, folder, "shared", identity=identity)).finish(metrics={}, files=[])
    client = connect(uri)
    found = client.search_runs([client.get_experiment_by_name("shared").experiment_id])
    assert sorted(run.data.tags["asd.identity"] for run in found) == ["one", "two"]


def test_only_changed_files_are_uploaded_again(uri: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [folder / name for name in ("a.csv", "b.csv")]
    sent: list[str] = []

    def finish(a: str) -> list[str]:
        sent.clear()
        files[0].write_text(a)
        one = start(tracker(uri, folder, "files"))
        send = one._client.log_artifact

        def log_artifact(run_id: str, path: str) -> None:
            sent.append(Path(path).name)
            send(run_id, path)

        monkeypatch.setattr(one._client, "log_artifact", log_artifact)
        one.finish(metrics={}, files=files)
        return sent

    files[1].write_text("b")
    assert finish("a") == ["a.csv", "b.csv"]
    assert finish("a") == []
    assert finish("changed") == ["a.csv"]
    assert finish("a") == ["a.csv"], "what was there once and was replaced is sent again"
    assert text(uri, runs(uri, "files")["files"], "a.csv") == "a"


def test_odd_values_are_logged_as_mlflow_allows(uri: str, folder: Path) -> None:
    one = start(tracker(uri, folder, "odd"))
    odd = {"p" * 300: 1, "long": "x" * 9000, "none": None, "empty": "", "a(b": 1, "a#b": 2}
    odd |= {f"p{i:03d}": i for i in range(250)}  # over 100 a request
    history = [{"epoch": e, "loss": math.nan, "up": math.inf, "down": -math.inf} for e in (1, 2)]
    for _ in range(2):
        member(one, params=odd, history=history, metrics={f"m{i:04d}": i for i in range(1200)})  # over 1000 a request
        one = start(tracker(uri, folder, "odd"))
    leaf = runs(uri, "odd")["mixup seed 3"]
    assert len(leaf.data.params) == len(odd)
    assert leaf.data.params["long"] == "x" * 5997 + "..."
    assert leaf.data.params["none"] == "None"
    assert sorted(v for k, v in leaf.data.params.items() if k.startswith("a_b-")) == ["1", "2"]
    assert [(step, math.isnan(value)) for step, value in points(uri, leaf, "loss")] == [(1, True), (2, True)]
    assert points(uri, leaf, "up") == [(1, sys.float_info.max), (2, sys.float_info.max)]
    assert points(uri, leaf, "down")[0] == (1, -sys.float_info.max)
    assert points(uri, leaf, "m1199") == [(2, 1199.0)]
    assert len(leaf.data.metrics) == 3 + 1200


@settings(derandomize=True, deadline=None)
@given(st.lists(st.text(max_size=300) | st.text("ab/(#. :", max_size=6), unique=True, max_size=8))
def test_safe_names_are_valid_distinct_and_keep_what_was_valid(names: list[str]) -> None:
    from mlflow.utils.validation import _validate_metric_name

    safe = safe_names(names)
    assert list(safe) == names
    assert len(set(safe.values())) == len(names)
    for name in safe.values():
        _validate_metric_name(name)
        assert len(name) <= NAME_LENGTH
        assert safe_names([name]) == {name: name}


def test_a_store_that_cannot_be_used_is_said_once(folder: Path) -> None:
    (folder / "file").write_text("not a folder")
    said: list[str] = []
    one = start(tracker(f"sqlite:///{folder}/file/mlflow.db", folder, "blocked", said))
    member(one)
    one.log_system(system="sys", params={}, metrics={}, files=[])
    one.finish(metrics={}, files=[])
    assert len(said) == 1
    assert "asd run" in said[0]


def test_our_own_mistakes_are_not_swallowed(uri: str, folder: Path) -> None:
    with pytest.raises(KeyError):
        start(tracker(uri, folder, "mistake")).log_member(
            parent=("system", "s"), member="m", title="g seed 0", params={}, history=[{"loss": 1.0}], metrics={}
        )


def test_a_dead_server_is_answered_within_seconds_without_its_password(folder: Path, capsys: Any) -> None:
    uri = f"http://me:secret@127.0.0.1:{free_port()}"
    began = time.monotonic()
    one = start(Tracker(uri=uri, study="dead", identity="abc", artifact_root=None))
    member(one)
    one.finish(metrics={}, files=[])
    assert time.monotonic() - began < 10
    said = capsys.readouterr().err
    assert said.count("tracking stopped") == 1
    assert re.search(r"//\*\*\*@127.0.0.1:\d+: .*refused", said)
    assert "secret" not in said + one.page


def test_a_server_that_dies_costs_nothing_and_misses_nothing_in_the_end(server: Server, folder: Path) -> None:
    server.wait()
    said: list[str] = []
    report = folder / "results.csv"
    report.write_text("row,official\n")
    one = start(tracker(server.uri, folder, "served", said))
    assert one.page.startswith(f"{server.uri}/#/experiments/")
    member(one, "m0")
    server.down()
    for name in ("m1", "m2"):
        one.log_member(
            parent=("system", "sys"), member=name, title=f"{name} seed 0", params={}, history=HISTORY, metrics={}
        )
    one.finish(metrics={"official_best": 1.0}, files=[report])
    assert len(said) == 1
    assert server.uri in said[0]
    server.launch()
    server.wait()
    two = start(tracker(server.uri, folder, "served"))
    member(two, "m0", history=[*HISTORY, {"epoch": 4, "loss": math.nan}])
    for name in ("m1", "m2"):
        two.log_member(
            parent=("system", "sys"), member=name, title=f"{name} seed 0", params={}, history=HISTORY, metrics={}
        )
    two.finish(metrics={"official_best": 1.0}, files=[report])
    found = runs(server.uri, "served")
    assert set(found) == {"served", "sys", "mixup seed 3", "m1 seed 0", "m2 seed 0"}
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    assert [step for step, _ in points(server.uri, found["mixup seed 3"], "loss")] == [1, 2, 3, 4]
    assert points(server.uri, found["m2 seed 0"], "loss") == [(1, 20.0), (2, 10.0), (3, 20 / 3)]
    listed = connect(server.uri).list_artifacts(found["served"].info.run_id)
    assert sorted(item.path for item in listed) == ["results.csv", "study.yaml"]
