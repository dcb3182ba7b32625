"""Helpers of several test files: where things are, and the command line as a process of its own."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"


def command(*arguments: object) -> list[str]:
    """`asd ...` as a list of words."""
    return [sys.executable, "-m", "jobs", *map(str, arguments)]


def clean_env() -> dict[str, str]:
    """This environment, but never joining a Ray that happens to run, and with a wide terminal."""
    return {**os.environ, "COLUMNS": "200", "RAY_ADDRESS": "local"}


def wait_for(what: Callable[[], object], process: subprocess.Popen, seconds: float = 120) -> None:
    """Poll until `what` is true; fails when the process ends first or the time is over."""
    limit = time.monotonic() + seconds
    while not what():
        assert process.poll() is None, f"ended too early: {process.communicate()[0]}"
        assert time.monotonic() < limit, "did not happen in time"
        time.sleep(0)  # a checkpoint is written in some 20 ms, which a busy machine lets a sleeper miss
