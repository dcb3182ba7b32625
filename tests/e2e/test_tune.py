"""`asd tune` from end to end: killed and run again, extended, over the backend alone, and refused where it must be."""

import csv
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from support import clean_env, command, kill_driver, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
SHORT = {"recipe.epochs": 2, "recipe.checkpoints": [1, 2], "recipe.embedding_dim": 64}


def searching(study: Path, factory: Path, storage: Path, **fields: object) -> Path:
    plain = {"study": str(study), "group": "mixup", "overrides": {**SHORT, "data.root": str(factory)}}
    path = storage / f"{fields['name']}.yaml"
    path.write_text(yaml.safe_dump({**plain, "storage": str(storage), **fields}))
    return path


def rows(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "trials.csv").open(newline="") as file:
        return {row["trial"]: row for row in csv.DictReader(file)}


def stamps(folder: Path, pattern: str) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.glob(pattern)}


def finished(folder: Path) -> list[Path]:
    known = [(path, json.loads(path.read_text())) for path in folder.glob("trials/[0-9]*.json")]
    return [path for path, trial in known if trial["state"] == "finished"]


def test_a_killed_search_goes_on_and_a_finished_one_is_extended(
    asd: Callable, study: Path, factory: Path, tmp_path: Path
) -> None:
    audio, away = tmp_path / "factory", tmp_path / "away"
    shutil.copytree(factory, audio)
    space = {"recipe.learning_rate": {"loguniform": [1e-4, 1e-2]}, "recipe.branches.0.tmn": [True, False]}
    search, folder = searching(study, audio, tmp_path, name="killed", space=space, trials=3), tmp_path / "killed"

    process = subprocess.Popen(
        command("tune", search), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=clean_env()
    )
    wait_for((folder / "clips.parquet").exists, process, pause_seconds=0.1)
    audio.rename(away)  # decoded once: no trial looks at it again
    wait_for(lambda: finished(folder), process, seconds=300, pause_seconds=0.1)
    kill_driver(process)
    away.rename(audio)
    done = {**stamps(folder, "members/*/done.json"), **{path: path.stat().st_mtime_ns for path in finished(folder)}}
    assert 1 <= len(finished(folder)) < 3

    again = asd("tune", search, timeout=500)
    assert again.returncode == 0, again.stdout + again.stderr
    assert again.stdout.count("decoding") == 1
    assert f"{3 - sum('trials' in str(path) for path in done)} of 3 trials to do" in again.stdout
    assert [row["state"] for row in rows(folder).values()] == ["finished"] * 3
    assert done.items() <= stamps(folder, "*/*/done.json").items() | stamps(folder, "trials/*").items()

    before = {**stamps(folder, "members/*/done.json"), **stamps(folder, "trials/*")}
    more = asd("tune", search, "trials=4", timeout=500)
    assert more.returncode == 0, more.stdout + more.stderr
    assert "1 of 4 trials to do" in more.stdout
    assert len(rows(folder)) == 4
    assert len(list(folder.glob("members/*/done.json"))) == 4 * 2
    assert before.items() <= {**stamps(folder, "members/*/done.json"), **stamps(folder, "trials/*")}.items()

    nothing = asd("tune", search, "trials=4")
    assert "decoding" not in nothing.stdout
    assert f"next:\n  asd run {folder}/best.yaml" in nothing.stdout
    other = asd("tune", search, "seed=5")
    assert other.returncode == 2
    assert "holds a search whose seed differ" in other.stderr

    planned = asd("plan", folder / "best.yaml")
    assert planned.returncode == 0, planned.stderr
    assert planned.stdout.count("to score") == 2
    assert "to train" not in planned.stdout
    assert tracked(tmp_path / "mlflow.db") == {"killed": None} | {f"trial {k}": "killed" for k in range(4)}


def tracked(database: Path) -> dict[str, str | None]:
    """Every MLflow run's name and its parent's."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{database}")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    names = {run.info.run_id: run.info.run_name for run in runs}
    return {run.info.run_name: names.get(run.data.tags.get("mlflow.parentRunId")) for run in runs}


def test_the_backend_is_searched_on_members_that_are_trained_once(
    asd: Callable, study: Path, factory: Path, tmp_path: Path
) -> None:
    fields = {"space": {"backend.clusters": {"integer": [1, 8]}}, "method": "optuna", "metric": "label_free"}
    search = searching(study, factory, tmp_path, name="backend", trials=3, **fields)
    done = asd("tune", search, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "backend"
    members = stamps(folder, "members/*/*.pt")
    assert len({path.parent for path in members}) == 2
    assert len(rows(folder)) == 3
    assert all(0 < float(row["label_free"]) <= 100 for row in rows(folder).values())

    run = asd("run", folder / "best.yaml")
    assert run.returncode == 0, run.stdout + run.stderr
    assert stamps(folder, "members/*/*.pt") == members
    with (folder / "results.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    best = next(iter(rows(folder).values()))
    assert (row["official"], row["seeds mean"], row["seeds std"]) == (
        *(best["official"], best["seeds_mean"], best["seeds_std"]),
    )


def test_a_metric_that_the_data_cannot_give_is_refused(
    asd: Callable, study: Path, factory: Path, tmp_path: Path
) -> None:
    audio = tmp_path / "unlabelled"
    shutil.copytree(factory, audio)
    for machine in ("fan", "gearbox"):
        for number, clip in enumerate(sorted((audio / machine / "test").iterdir())):
            clip.rename(clip.with_name(f"section_00_{number:04d}.wav"))
    search = searching(study, audio, tmp_path, name="hopeless", space={"backend.clusters": [2, 4]}, method="grid")
    refused = asd("tune", search)
    assert refused.returncode == 2
    assert "metric=label_free" in refused.stderr
    assert not (tmp_path / "hopeless").exists()
