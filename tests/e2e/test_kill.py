"""`kill -9` of slots and drivers: the same command finishes, with the scores of an undisturbed run."""

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from support import clean_env, command, kill_driver, scores, wait_for

pytestmark = pytest.mark.e2e


def start(study: Path, name: str) -> subprocess.Popen:
    return subprocess.Popen(
        command("run", study, f"name={name}"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=clean_env(),
    )


def family(process: subprocess.Popen) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


@pytest.mark.timeout(600)
def test_a_killed_slot_is_replaced_and_changes_no_score(study: Path, storage: Path, reference: Path) -> None:
    process = start(study, "slot-killed")
    members = storage / "slot-killed" / "members"
    # After an epoch is kept and before the member is done, its slot is somewhere in the next epoch.
    wait_for(lambda: any(members.glob("*/progress.json")), process, pause_seconds=0.02)
    slots = [p for p in family(process) if "RayTrainWorker" in " ".join(p.cmdline())]
    assert slots, "no Ray Train worker found"
    slots[0].send_signal(signal.SIGKILL)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    assert scores(storage / "slot-killed") == scores(reference)


@pytest.mark.timeout(900)
def test_a_driver_killed_twice_goes_on_with_the_same_scores(
    asd: Callable, study: Path, storage: Path, reference: Path
) -> None:
    members = storage / "driver-killed" / "members"

    process = start(study, "driver-killed")
    wait_for(lambda: any(members.glob("*")), process, pause_seconds=0.1)
    wait_for(lambda: any(members.glob("*/.last.pt.*.part")), process)  # while a checkpoint is being written
    kill_driver(process)
    before = len(list(members.glob("*/done.json")))
    assert before < 4

    process = start(study, "driver-killed")
    # Between two members.
    wait_for(lambda: len(list(members.glob("*/done.json"))) > before, process, pause_seconds=0.02)
    kill_driver(process)
    first = {path: path.stat().st_mtime_ns for path in members.glob("*/done.json")}
    assert first

    done = asd("run", study, "name=driver-killed")
    assert done.returncode == 0, done.stdout + done.stderr
    assert scores(storage / "driver-killed") == scores(reference)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in first.items()), "a finished member was trained again"


@pytest.mark.timeout(600)
def test_a_killed_controller_is_told_and_nothing_is_lost(
    asd: Callable, study: Path, storage: Path, reference: Path
) -> None:
    process = start(study, "controller-killed")
    wait_for(lambda: any((storage / "controller-killed" / "members").glob("*/progress.json")), process)
    (controller,) = [p for p in family(process) if "TrainController" in " ".join(p.cmdline())]
    controller.send_signal(signal.SIGKILL)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 2, output
    assert "a process that leads the slots died" in output
    assert "run the same command again" in " ".join(output.split())
    assert "Traceback" not in output
    done = asd("run", study, "name=controller-killed")
    assert done.returncode == 0, done.stdout + done.stderr
    assert scores(storage / "controller-killed") == scores(reference)
