"""Commands sent to a cluster that asks for a token: the same members, the job's own outcome, list, follow and stop."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from support import NODE, clean_env, command, free_port, scores

pytestmark = pytest.mark.e2e

TOKEN = "0123456789abcdef" * 4


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A head of its own process family; yields the environment of somebody who knows its address and token."""
    port, dashboard = free_port(), free_port()
    environment = {name: value for name, value in clean_env().items() if name != "RAY_ADDRESS"}
    environment |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    line = [Path(sys.executable).with_name("ray"), "start", "--head", "--block", f"--port={port}", "--num-cpus=1"]
    line += [f"--dashboard-port={dashboard}", f"--object-store-memory={NODE['object_store_memory']}"]
    log = tmp_path_factory.mktemp("head") / "log"
    with log.open("w") as out:
        process = subprocess.Popen(line, env=environment, stdout=out, stderr=out, start_new_session=True)
    told = environment | {"RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}"}
    limit = time.monotonic() + 90
    while subprocess.run(command("jobs", "list"), env=told, capture_output=True).returncode:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < limit, log.read_text()
    yield told
    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for member in family:
        member.send_signal(signal.SIGKILL)
    psutil.wait_procs(family, timeout=30)


@pytest.fixture(scope="module")
def asd_there(head: dict[str, str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*words: object, **changes: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command(*words), env=head | changes, capture_output=True, text=True, timeout=240)

    return run


@pytest.mark.timeout(600)
def test_a_submitted_study_is_the_study(asd_there: Callable, study: Path, storage: Path, reference: Path) -> None:
    done = asd_there("submit", "--", "run", study, "name=submitted")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"sending \d\.\d\d MiB of code in \d+ files; largest: \S+ \(\d+ KiB\)", done.stdout)
    assert "mixup and cutmix" in done.stdout  # the results table
    job = re.search(r"job (asd-run-submitted-\w+): SUCCEEDED", done.stdout)[1]
    assert {path.name for path in (storage / "submitted/members").iterdir()} == {
        path.name for path in (reference / "members").iterdir()
    }
    assert scores(storage / "submitted") == scores(reference)
    assert json.loads((storage / "submitted/provenance.json").read_text()) == json.loads(
        (reference / "provenance.json").read_text()
    )
    assert job in asd_there("jobs", "list").stdout
    again = asd_there("jobs", "follow", job)
    assert again.returncode == 0
    assert "mixup and cutmix" in again.stdout


def test_a_job_that_fails_fails_here(asd_there: Callable, study: Path) -> None:
    done = asd_there("submit", "--", "run", study, "name=bad", "data.root=/nowhere")
    assert done.returncode == 2
    assert "error: " in done.stdout
    assert "/nowhere" in done.stdout
    assert ": FAILED" in done.stdout


@pytest.mark.timeout(600)
def test_stop_and_submit_again(asd_there: Callable, study: Path, storage: Path, reference: Path) -> None:
    words = ("submit", "--no-wait", "--", "run", study, "name=stopped")
    job = re.search(r"job (\S+) is at", asd_there(*words).stdout)[1]
    limit = time.monotonic() + 120
    while not list((storage / "stopped/members").glob("*/done.json")):
        assert time.monotonic() < limit
        time.sleep(0.1)
    assert f"job {job}: STOPPED" in asd_there("jobs", "stop", job).stdout
    assert asd_there("jobs", "follow", job).returncode == 1
    done = asd_there("submit", "--", "run", study, "name=stopped")
    assert done.returncode == 0, done.stdout
    assert scores(storage / "stopped") == scores(reference)


def test_wrong_words(asd_there: Callable, study: Path) -> None:
    for changes in ({"RAY_AUTH_TOKEN": "f" * 64}, {"RAY_AUTH_MODE": "disabled"}):
        done = asd_there("jobs", "list", **changes)
        assert done.returncode == 2
        assert "RAY_AUTH_TOKEN" in done.stderr
    assert "no job nobody" in asd_there("jobs", "follow", "nobody").stderr
    assert "no job nobody" in asd_there("jobs", "stop", "nobody").stderr
    refused = asd_there("submit", "--", "run", study, "storage=results")
    assert refused.returncode == 2
    assert "storage: 'results' is a folder of this machine" in refused.stderr
