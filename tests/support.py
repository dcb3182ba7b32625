"""Helpers of several test files: where things are, and the command line as a process of its own."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
NODE = {"num_cpus": 1, "object_store_memory": 200 << 20}  # of a cluster of processes


def command(*arguments: object) -> list[str]:
    """`asd ...` as a list of words."""
    return [sys.executable, "-m", "jobs", *map(str, arguments)]


def clean_env() -> dict[str, str]:
    """This environment, but never joining a Ray that happens to run, and with a wide terminal."""
    return {**os.environ, "COLUMNS": "200", "RAY_ADDRESS": "local"}


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def wait_for(
    what: Callable[[], object], process: subprocess.Popen, seconds: float = 120, pause_seconds: float = 0.0
) -> None:
    """Poll until `what` is true; fails when the process ends first or the time is over.

    Without a pause it sees what lasts some 20 ms, such as a checkpoint being written, which a busy machine lets a
    sleeper miss; but it takes a core for itself.
    """
    limit = time.monotonic() + seconds
    while not what():
        assert process.poll() is None, f"ended too early: {process.communicate()[0]}"
        assert time.monotonic() < limit, "did not happen in time"
        time.sleep(pause_seconds)


def kill_driver(process: subprocess.Popen) -> None:
    """SIGKILL a driver alone, then wait until its local Ray has followed it.

    Ray's two agents, which hold nothing of a study, notice only after a minute: they are helped along.
    """
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(children, timeout=5)
    for child in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()


def scores(folder: Path) -> list[dict]:
    """All scores of a study, in an order that does not depend on the run."""
    order = [(name, "ascending") for name in ("member", "epoch", "output", "clip_id")]
    return pq.read_table(folder / "scores.parquet").sort_by(order).to_pylist()
