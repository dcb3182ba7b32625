"""What users get wrong is refused in words before work begins, or survived with all usable clips scored."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import mlflow
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import ray
import yaml

from jobs.__main__ import run_job
from orchestrator.data.synth import FactoryOptions, make_factory
from orchestrator.lock import only_writer
from orchestrator.storage import Store

Asd = Callable[..., subprocess.CompletedProcess[str]]
Refused = Callable[..., str]
e2e = pytest.mark.e2e


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs `asd ...` in this process; it must end with exit code 2 and a message, and without Ray."""
    monkeypatch.setattr(ray, "init", lambda **named: pytest.fail("Ray was started"))

    def run(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["asd", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            run_job()
        message = capsys.readouterr().err
        assert end.value.code == 2, message
        assert message.startswith("error: ")
        assert "Traceback" not in message
        return message

    return run


def edited(study: Path, path: Path, edit: Callable[[dict], object]) -> Path:
    content = yaml.safe_load(study.read_text())
    edit(content)
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda s: s["recipe"].update(epoch=3), r"recipe\.epoch: unknown key; did you mean `epochs`\?"),
        (lambda s: s.update(machines=[]), r"machines: unknown key"),
        (lambda s: s["recipe"].update(batch_size="many"), r"batch_size: .*integer.*\(given: 'many'\)"),
        (lambda s: s["recipe"].update(learning_rate=-1), r"learning_rate: .*greater than 0"),
        (lambda s: s["recipe"].update(checkpoints=[5]), r"checkpoints \[5\] lie outside epochs 1\.\.4"),
        (lambda s: s.pop("systems"), r"systems: this field is required"),
        (lambda s: s.update(systems={}), r"systems: .*at least 1 item"),
        (lambda s: s["systems"]["both"].update(groups=["mixup", "nix"]), r"\['nix'\] not among the groups"),
    ],
)
def test_a_wrong_study_is_refused(
    refused: Refused, study: Path, tmp_path: Path, edit: Callable[[dict], object], message: str
) -> None:
    assert re.search(message, refused("run", edited(study, tmp_path / "wrong.yaml", edit)))


def test_a_folder_that_is_missing_or_holds_no_machine_is_refused(refused: Refused, study: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    (empty / "notes").mkdir(parents=True)
    for verb in ("run", "plan"):
        storage = f"storage={tmp_path / 'out'}"
        message = refused(verb, study, f"data.root={tmp_path / 'nowhere'}", storage)
        assert "nowhere is not a folder" in message
        assert "asd synth" in message
        message = refused(verb, study, f"data.root={empty}", storage)
        assert f"no recordings found in {empty}" in message


@pytest.mark.parametrize(
    ("options", "ballast", "why"),
    [
        ("ro", 0, "run.lock: the file system is read-only"),
        ("size=64k", 65536, "run.lock: the disk is full"),
        ("size=64k", 61440, "study.yaml: the disk is full"),
    ],
)
def test_an_output_folder_that_takes_nothing_is_refused(
    refused: Refused, study: Path, tmp_path: Path, options: str, ballast: int, why: str
) -> None:
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", tmp_path]).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        if ballast:
            (tmp_path / "ballast").write_bytes(bytes(ballast))
        message = refused("run", study, f"storage={tmp_path / 'results'}")
        assert f"cannot write {tmp_path}/results/tiny/{why}" in message
        assert re.search(r"storage=FOLDER.*run the same command again", message)
    finally:
        subprocess.run(["umount", tmp_path], check=True)


@e2e
def test_a_second_run_of_a_study_is_refused_with_the_first_ones_pid(asd: Asd, study: Path, storage: Path) -> None:
    with only_writer(Store.at(storage / "busy")):
        second = asd("run", study, "name=busy")
    assert second.returncode == 2
    assert second.stderr.startswith(f"error: {storage / 'busy'} is being written by pid {os.getpid()} on ")
    assert [path.name for path in (storage / "busy").iterdir()] == ["run.lock"]


@e2e
def test_a_head_that_is_not_there_ends_the_run_at_once(asd: Asd, study: Path) -> None:
    started = time.monotonic()
    done = asd("run", study, "name=no-head", "cluster.address=127.0.0.1:1")
    assert time.monotonic() - started < 60  # most of it imports, on a busy machine; Ray alone needs two minutes
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith("error: no Ray cluster at cluster.address=127.0.0.1:1")


BROKEN = ("9000", "9001", "9002", "9003", "9006")  # of `plan_faults`: zero bytes, truncated, NaN, silent, no sound
USED = {(16000, 1), (44100, 1), (16000, 2)}  # Hz and channels


@pytest.fixture(scope="module")
def hard_factory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Planted faults, and machines with no target clip (bearing), 3 source clips (gearbox), one in all (fan)."""
    folder = tmp_path_factory.mktemp("hard")
    sizes = {"train_source": 6, "train_target": 2, "test_per_condition": 2, "seconds": 1.0, "external": 0}
    make_factory(folder, FactoryOptions(machines=("fan", "gearbox", "bearing"), plant_faults=True, **sizes))
    left = {"fan": (1, 0), "gearbox": (2, 2), "bearing": (6, 0)}  # source, target; planted ones are called 9000 ...
    for machine, counts in left.items():
        for domain, count in zip(("source", "target"), counts, strict=True):
            for clip in sorted((folder / machine / "train").glob(f"*_{domain}_train_normal_0*.wav"))[count:]:
                clip.unlink()
    return folder


@e2e
@pytest.mark.timeout(600)
def test_every_usable_clip_is_scored_beside_broken_and_scarce_ones(
    asd: Asd, study: Path, hard_factory: Path, tmp_path: Path
) -> None:
    short = ("seeds=1", "recipe.epochs=1", "recipe.checkpoints=[1]", "backend.clusters=4")
    where = (f"data.root={hard_factory}", f"storage={tmp_path}", "data.max_bad_clips=5")
    done = asd("run", study, *where, *short)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "backend.clusters=4: bearing/00 (7), fan/00 (1), gearbox/00 (3)" in done.stdout
    folder = tmp_path / "tiny"
    clips, scores = pq.read_table(folder / "clips.parquet"), pq.read_table(folder / "scores.parquet")
    bad = clips.filter(pc.not_equal(clips["problem"], ""))["file_name"].to_pylist()
    assert sorted(name.split("_")[5] for name in bad) == sorted(BROKEN)
    usable = clips.filter(pc.equal(clips["problem"], ""))
    assert {*zip(usable["sample_rate"].to_pylist(), usable["channels"].to_pylist(), strict=True)} == USED
    assert sorted(scores["clip_id"].to_pylist()) == sorted(2 * usable["clip_id"].to_pylist())  # two members
    assert pc.all(pc.is_finite(scores["score"])).as_py()
    header, *rows = (folder / "results.csv").read_text().splitlines()
    assert header.startswith("system,scores,official,seeds mean,seeds std,bearing,fan,gearbox")
    assert all(0 < float(cell) <= 100 for row in rows for cell in row.replace('"', "").split(",")[-6:])


@pytest.fixture(scope="module")
def finished(reference: Path) -> tuple[Path, str]:
    """A run that nothing disturbed: its folder and what it printed."""
    return reference, reference.with_suffix(".txt").read_text()


def mlflow_runs(storage: Path) -> dict[str, str]:
    """Every MLflow run of the storage folder with its status."""
    client = mlflow.MlflowClient(f"sqlite:///{storage}/mlflow.db")
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    return {run.info.run_id: run.info.status for run in client.search_runs(ids)}


def files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@e2e
def test_a_run_names_what_it_wrote(finished: tuple[Path, str]) -> None:
    folder, output = finished
    assert f"everything is in {folder}" in output
    named = re.findall(r"^  ([\w<>./]+) {2,}\S", output, re.MULTILINE)
    assert {"results.md", "scores.parquet", "members/"} <= set(named)
    for name in named:
        assert list(folder.glob(name.replace("<row>", "mixup"))), name
    for system in ("mixup", "cutmix", "both"):
        names = {path.name for path in (folder / "systems" / system).iterdir()}
        assert names >= {"official_result.csv", "thresholds.csv", "anomaly_score_fan_section_00_test.csv"}
    official = (folder / "systems" / "both" / "official_result.csv").read_text()
    assert re.search(r"^official score,+0\.\d+", official, re.MULTILINE), official
    (evaluate,) = re.findall(r"^  asd evaluate (\S+) --truth (\S+)$", output, re.MULTILINE)
    assert all(Path(path).exists() for path in evaluate)


@e2e
def test_a_finished_study_is_quick_to_run_again_and_changes_nothing(
    asd: Asd, study: Path, storage: Path, finished: tuple[Path, str]
) -> None:
    folder, output = finished
    before, runs, table = files(folder / "members"), mlflow_runs(storage), (folder / "results.md").read_bytes()
    started = time.monotonic()
    again = asd("run", study, "name=undisturbed")
    assert again.returncode == 0, again.stderr
    assert time.monotonic() - started < 45  # imports and tables, no Ray; 8 s on an idle machine
    assert "training" not in again.stdout.split("harmonic mean")[0]
    assert files(folder / "members") == before
    assert mlflow_runs(storage) == runs
    assert set(runs.values()) == {"FINISHED"}
    assert (folder / "results.md").read_bytes() == table
    assert [line for line in again.stdout.splitlines() if "│" in line] == [
        line for line in output.splitlines() if "│" in line
    ]


@e2e
def test_one_member_without_ray_has_the_farms_scores_byte_for_byte(
    asd: Asd, study: Path, storage: Path, finished: tuple[Path, str]
) -> None:
    done = asd("train", study, "name=alone", "--group", "cutmix", "--seed", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    (member,) = (storage / "alone" / "members").iterdir()
    assert f"the member is in {member}" in done.stdout
    (scores,) = member.glob("scores_*.parquet")
    of_the_farm = finished[0] / "members" / member.name / scores.name
    assert pq.read_table(scores).equals(pq.read_table(of_the_farm))
    assert scores.read_bytes() == of_the_farm.read_bytes()


@e2e
@pytest.mark.parametrize(("name", "state"), [("undisturbed", "done"), ("not-yet", "to train")])
@pytest.mark.usefixtures("finished")
def test_a_plan_writes_nothing(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    study: Path,
    storage: Path,
    name: str,
    state: str,
) -> None:
    before = files(storage)
    monkeypatch.setattr(sys, "argv", ["asd", "plan", str(study), f"name={name}"])
    with pytest.raises(SystemExit, match="0"):
        run_job()
    assert len(re.findall(rf"│ {state} +│", capsys.readouterr().out)) == 4
    assert files(storage) == before
