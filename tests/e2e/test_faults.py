"""What users get wrong: every fault is refused in words before work begins, or survived with all usable clips scored."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import ray
import yaml

from jobs.__main__ import main
from orchestrator.data.synth import FactoryOptions, make_factory
from orchestrator.storage import only_writer

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
            main()
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


@e2e
def test_the_real_command_refuses_quickly(asd: Asd, study: Path) -> None:
    done = asd("run", study, "recipe.epoch=3")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "did you mean `epochs`?" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


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


def test_two_files_of_one_clip_are_refused(refused: Refused, study: Path, factory: Path, tmp_path: Path) -> None:
    shutil.copytree(factory, tmp_path / "twice")
    clip = next((tmp_path / "twice" / "fan" / "train").glob("*.wav"))
    shutil.copy(clip, clip.with_suffix(".flac"))
    message = refused("run", study, f"data.root={tmp_path / 'twice'}", f"storage={tmp_path / 'out'}")
    assert "1 clips exist twice" in message
    assert str(clip) in message
    assert str(clip.with_suffix(".flac")) in message


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a small disk of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options: str) -> Path:
        if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder]).returncode:
            pytest.skip("mounting a small disk needs root")
        return folder

    yield mount
    if os.path.ismount(folder):
        subprocess.run(["umount", folder], check=True)


def test_a_read_only_output_folder_is_refused(refused: Refused, study: Path, disk: Callable[[str], Path]) -> None:
    folder = disk("ro")
    message = refused("run", study, f"storage={folder / 'results'}")
    assert re.search(rf"cannot write {folder}/results/tiny/run.lock: the file system is read-only.*storage=", message)


@pytest.mark.parametrize("left", [0, 4096])  # bytes: not even the lock's content, or the lock but not the study
def test_a_full_output_folder_is_refused(refused: Refused, study: Path, disk: Callable[[str], Path], left: int) -> None:
    folder = disk("size=64k")
    (folder / "ballast").write_bytes(bytes(65536 - left))
    message = refused("run", study, f"storage={folder / 'results'}")
    assert re.search(rf"cannot write {folder}/results/tiny/.*: the disk is full.*run the same command again", message)


@e2e
def test_a_second_run_of_a_study_is_refused_with_the_first_ones_pid(asd: Asd, study: Path, storage: Path) -> None:
    with only_writer(storage / "busy"):
        second = asd("run", study, "name=busy")
    assert second.returncode == 2
    assert f"{storage / 'busy'} is being written by pid {os.getpid()} on " in second.stderr
    assert "Traceback" not in second.stderr
    assert [path.name for path in (storage / "busy").iterdir()] == ["run.lock"]


@e2e
def test_a_head_that_is_not_there_ends_the_run_at_once(asd: Asd, study: Path) -> None:
    started = time.monotonic()
    done = asd("run", study, "name=no-head", "cluster.address=127.0.0.1:1")
    assert time.monotonic() - started < 60  # most of it imports, on a busy machine; Ray alone needs two minutes
    assert done.returncode == 2, done.stdout + done.stderr
    assert "no Ray cluster at cluster.address=127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr


BROKEN = ("9000", "9001", "9002", "9003", "9006")  # of `plan_faults`: zero bytes, truncated, NaN, silent, no sound
ODD = ("9004", "9005")  # 44.1 kHz, stereo: usable


@pytest.fixture(scope="module")
def hard_factory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Planted faults, and machines with no target clip (bearing), 3 source clips (gearbox), one clip in all (fan)."""
    folder = tmp_path_factory.mktemp("hard")
    machines = ("fan", "gearbox", "bearing")
    options = FactoryOptions(
        machines=machines, train_source=6, train_target=2, test_per_condition=2, seconds=1.0, external=0
    )
    make_factory(folder, options.model_copy(update={"plant_faults": True}))
    trained = {machine: sorted((folder / machine / "train").glob("*_normal_0*.wav")) for machine in machines}
    for clip in trained["bearing"]:
        if "_target_" in clip.name:
            clip.unlink()
    for clip in trained["gearbox"]:
        if "_source_" in clip.name and int(clip.name.split("_")[5]) >= 3:
            clip.unlink()
    for clip in [clip for clip in trained["fan"] if "_source_" in clip.name][1:] + [
        clip for clip in trained["fan"] if "_target_" in clip.name
    ]:
        clip.unlink()
    for clip in (folder / "fan" / "train").glob("*_900[45]_*.wav"):  # so that one is left
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
    assert "fan section 00: 1 source training clips" in done.stdout
    folder = tmp_path / "tiny"
    clips, scores = pq.read_table(folder / "clips.parquet"), pq.read_table(folder / "scores.parquet")
    bad = clips.filter(pc.not_equal(clips["problem"], ""))["file_name"].to_pylist()
    assert sorted(name.split("_")[5] for name in bad) == sorted(BROKEN)
    usable = clips.filter(pc.equal(clips["problem"], ""))
    assert set(usable["sample_rate"].to_pylist()) >= {16000}
    assert sorted(scores["clip_id"].to_pylist()) == sorted(2 * usable["clip_id"].to_pylist())  # two members
    assert pc.all(pc.is_finite(scores["score"])).as_py()
    header, *rows = (folder / "results.csv").read_text().splitlines()
    assert header.startswith("system,scores,official,seeds mean,seeds std,bearing,fan,gearbox")
    assert all(0 < float(cell) <= 100 for row in rows for cell in row.replace('"', "").split(",")[-6:])


@pytest.fixture(scope="module")
def finished(asd: Asd, study: Path, storage: Path) -> tuple[Path, str]:
    """A run that nothing disturbs: its folder and what it printed."""
    done = asd("run", study, "name=undisturbed")
    assert done.returncode == 0, done.stdout + done.stderr
    return storage / "undisturbed", done.stdout


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
def test_a_plan_writes_nothing(asd: Asd, study: Path, storage: Path, finished: tuple[Path, str]) -> None:
    before = files(storage)
    for name, state in (("undisturbed", "done"), ("not-yet", "to train")):
        planned = asd("plan", study, f"name={name}")
        assert planned.returncode == 0, planned.stderr
        assert len(re.findall(rf"│ {state} +│", planned.stdout)) == 4, planned.stdout
    assert files(storage) == before
