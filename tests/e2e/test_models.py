"""A study's row as a model: exported, loaded without Ray and without the study, served by MLflow, used on files."""

import base64
import csv
import io
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from serving_world import clips_of_tests, once
from support import clean_env, command, free_port

NO_RAY = """
import sys
sys.modules["ray"] = None  # importing it is an ImportError
import base64, json, mlflow, pandas
model = mlflow.pyfunc.load_model(sys.argv[1])
rows = pandas.DataFrame(json.load(sys.stdin))
rows["audio"] = rows["audio"].map(base64.b64decode)
print(model.predict(rows).to_json(orient="records"))
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return once(lambda: tmp_path_factory.mktemp("serving"))


@pytest.fixture(scope="module")
def clips(study: Path) -> pa.Table:
    return clips_of_tests(study, "both")[0]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture(scope="module")
def registered(asd: Callable, study: Path, store: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a model that was exported from a copy of the study which is gone since."""
    home = tmp_path_factory.mktemp("home") / "tiny"
    shutil.copytree(study, home)
    done = asd("export", home, "both", "--tracking", store)
    assert done.returncode == 0, done.stderr
    assert "registered asd-tiny-both version 1, alias champion" in done.stdout
    assert "mlflow models serve -m models:/asd-tiny-both@champion" in done.stdout
    shutil.rmtree(home)
    return "models:/asd-tiny-both@champion"


def payload(clips: pa.Table) -> dict[str, list[str]]:
    """Clips as the model's input columns."""
    audio = [base64.b64encode(Path(path).read_bytes()).decode() for path in clips["path"].to_pylist()]
    return {"machine": clips["machine"].to_pylist(), "section": clips["section"].to_pylist(), "audio": audio}


def check(rows: list[dict], clips: pa.Table) -> None:
    """Rows hold the study's own scores and decisions."""
    np.testing.assert_allclose([row["score"] for row in rows], clips["score"].to_numpy(), rtol=0, atol=1e-5)
    assert [row["decision"] == "anomaly" for row in rows] == [bool(d) for d in clips["decision"].to_pylist()]
    assert {row["problem"] for row in rows} == {""}


def test_the_model_needs_neither_ray_nor_the_study(registered: str, store: str, clips: pa.Table) -> None:
    done = subprocess.run(
        [sys.executable, "-c", NO_RAY, registered],
        input=json.dumps(payload(clips)),
        capture_output=True,
        text=True,
        timeout=120,
        env=clean_env() | {"MLFLOW_TRACKING_URI": store, "MLFLOW_REGISTRY_URI": store},
    )
    assert done.returncode == 0, done.stderr
    check(json.loads(done.stdout.splitlines()[-1]), clips)


@pytest.fixture
def server(registered: str, store: str, tmp_path: Path) -> Iterator[str]:
    """`mlflow models serve`, as the export said; the address to ask."""
    port = free_port()
    serve = [sys.executable, "-m", "mlflow", "models", "serve", "-m", registered, "--env-manager", "local"]
    venv = Path(sys.executable).parent
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [*serve, "--port", str(port), "--workers", "1"],
            stdout=log,
            stderr=log,
            env=clean_env() | {"MLFLOW_TRACKING_URI": store, "PATH": f"{venv}:{os.environ['PATH']}"},
            start_new_session=True,
        )
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(480):
            assert process.poll() is None, (tmp_path / "log").read_text()
            try:
                urllib.request.urlopen(f"{address}/ping", timeout=5)
                break
            except OSError:
                time.sleep(0.25)
        yield address
    finally:
        subprocess.run(["pkill", "-9", "-s", str(process.pid)], check=False)
        process.wait()


def test_mlflow_serves_it(server: str, clips: pa.Table) -> None:
    asked = payload(clips)
    asked = {name: [*values, values[0]] for name, values in asked.items()}
    asked["audio"][-1] = base64.b64encode(b"no audio").decode()
    body = json.dumps({"dataframe_split": {"columns": list(asked), "data": list(zip(*asked.values(), strict=True))}})
    request = urllib.request.Request(
        f"{server}/invocations", body.encode(), headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        *good, bad = json.load(answer)["predictions"]
    check(good, clips)
    assert bad["score"] is None
    assert bad["problem"]


def test_another_export_is_another_version(asd: Callable, study: Path, registered: str, store: str) -> None:
    done = asd("export", study, "both", "--tracking", store)
    assert "registered asd-tiny-both version 2, alias champion" in done.stdout, done.stderr


def test_files_are_scored_with_a_row_each(asd: Callable, registered: str, store: str, clips: pa.Table) -> None:
    paths = clips["path"].to_pylist()
    done = asd("score", *paths, "--model", registered, "--tracking", store, "--format", "jsonl")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["file"] for row in rows] == paths
    check(rows, clips)
    assert f"{len(rows)} file(s) in" in done.stderr


def test_one_bad_file_is_a_row_and_exit_code_1(asd: Callable, study: Path, clips: pa.Table, tmp_path: Path) -> None:
    (tmp_path / "pump").mkdir()
    shutil.copy(clips["path"][-1].as_py(), tmp_path / "pump" / "good.wav")
    (tmp_path / "pump" / "bad.wav").write_bytes(b"RIFF")
    model = study / "systems" / "both"
    done = asd("score", tmp_path / "pump", "--model", model, "--format", "csv", "--out", tmp_path / "rows.csv")
    assert done.returncode == 1
    bad, good = csv.DictReader(io.StringIO((tmp_path / "rows.csv").read_text()))
    assert bad["file"].endswith("bad.wav")
    assert bad["problem"]
    assert not bad["score"]
    assert float(good["score"]) == pytest.approx(clips["score"][-1].as_py(), abs=1e-5)
    again = asd("score", tmp_path / "pump", "--model", model, "--out", tmp_path / "rows.csv")
    assert again.returncode == 2
    assert "exists; name another file, or replace it with --force" in again.stderr


def test_one_file_from_standard_input(study: Path, clips: pa.Table) -> None:
    done = subprocess.run(
        command("score", "--model", study / "systems" / "both", "--machine", "pump"),
        input=Path(clips["path"][-1].as_py()).read_bytes(),
        capture_output=True,
        timeout=120,
        env=clean_env(),
    )
    assert done.returncode == 0, done.stderr
    shown = done.stdout.decode().splitlines()[1].split()
    assert float(shown[0]) == pytest.approx(clips["score"][-1].as_py(), rel=1e-4)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["score", "x.wav"], "--model is missing"),
        (["score", "x.wav", "--model", "NOWHERE"], "NOWHERE is not there; name a row's folder"),
        (["score", "x.wav", "--model", "STUDY/systems/both", "--machine", "valve"], "the model knows fan, pump"),
        (
            ["score", "x.wav", "--model", "models:/nobody@champion", "--tracking", "sqlite:///no.db"],
            "no MLflow database",
        ),
        (["export", "STUDY", "nobody"], "tiny has no system 'nobody'; it has one, both, mse, mahalanobis"),
    ],
)
def test_a_mistake_is_explained(asd: Callable, study: Path, arguments: list[str], words: str) -> None:
    done = asd(*(argument.replace("STUDY", str(study)) for argument in arguments))
    assert done.returncode == 2
    assert words in done.stderr
