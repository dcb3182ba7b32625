"""A study whose recordings and results lie in a bucket gives the scores of one in folders, also after a kill."""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from s3_server import BUCKET, s3_server, upload
from support import clean_env, command, kill_driver, wait_for

from orchestrator.storage import Store

pytestmark = pytest.mark.e2e

ORDER = [(name, "ascending") for name in ("member", "epoch", "output", "clip_id")]


@pytest.fixture(scope="module")
def bucket(factory: Path) -> Iterator[Store]:
    """A bucket with the factory in it."""
    with s3_server():
        store = Store.at(f"s3://{BUCKET}")
        upload(factory, store)
        yield store


def scores(store: Store) -> list[dict]:
    return store.read_table("scores.parquet").sort_by(ORDER).to_pylist()


def members(store: Store) -> set[str]:
    return store.child("members").names()


@pytest.mark.timeout(600)
def test_a_study_in_a_bucket(asd: Callable, bucket: Store, study: Path, reference: Path, tmp_path: Path) -> None:
    where = [f"data.root={bucket.uri}/factory", f"storage={bucket.uri}/results", "name=undisturbed"]
    where.append(f"tracking.uri=sqlite:///{tmp_path}/mlflow.db")
    results = bucket.child("results", "undisturbed")
    process = subprocess.Popen(command("run", study, *where), stdout=subprocess.PIPE, env=clean_env(), text=True)
    wait_for(
        lambda: any("done.json" in results.child("members", m).names() for m in members(results)), process, 240, 0.2
    )
    kill_driver(process)

    done = asd("run", study, *where)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"everything is in {bucket.uri}/results/undisturbed" in done.stdout
    local = Store.at(reference)
    assert members(results) == members(local)
    assert scores(results) == scores(local)
    assert not results.exists("run.lock")
    assert sorted(path.name for path in (tmp_path).rglob("results.csv")) == ["results.csv"]  # MLflow has it

    compared = asd("compare", results.uri)
    assert compared.returncode == 0, compared.stderr
    assert results.exists("compare.md")
    scored = asd("score", f"{bucket.uri}/factory", "--model", f"{results.uri}/systems/both")
    assert scored.returncode == 1  # recordings are read from this machine
    exported = asd("export", results.uri, "both", "--out", tmp_path / "model")
    assert exported.returncode == 0, exported.stderr
    assert json.loads((tmp_path / "model" / "manifest.json").read_text())["system"] == "both"
    again = asd("run", study, *where)
    assert "training and scoring" not in again.stdout
    assert isinstance(results.read_table("clips.parquet"), pa.Table)
