"""Measurements side by side: each in a process of its own, in turns, so that a noisy machine is noisy to all."""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from orchestrator.bench.tasks import Rate, Task
from orchestrator.errors import ResourceError
from orchestrator.runtime import worker_environment

Say = Callable[[str], None]


class Case(NamedTuple):
    """Tasks that run at the same time; their rates add up."""

    tasks: tuple[Task, ...]
    fast_allocator: bool


class Figure(NamedTuple):
    """One case over all rounds."""

    rates: tuple[float, ...]  # clips/s, a round each
    memory_mib: float  # the most, all its processes together

    @property
    def median(self) -> float:
        return statistics.median(self.rates)

    def as_json(self) -> dict[str, object]:
        return {"clips_per_second": self.median, "rounds": list(self.rates), "memory_mib": self.memory_mib}


def common(what: str, cores: int, **sizes: float) -> Case:
    """The common way: one process with a thread per core and the system's allocator."""
    return Case((Task(what, True, threads=cores, **sizes),), False)  # type: ignore[arg-type]


def farm(what: str, slots: int, **sizes: float) -> Case:
    """The farm's default: a process per slot, each with one thread."""
    return Case(tuple(Task(what, False, threads=1, **sizes) for _ in range(slots)), True)  # type: ignore[arg-type]


def measure(cases: Mapping[str, Case], rounds: int, say: Say) -> dict[str, Figure]:
    """All cases once, then all again, and so on."""
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
    for number in range(rounds):
        for name, case in cases.items():
            done = _together(case)
            rate = sum(one.clips / one.seconds for one in done)
            seen[name].append((rate, sum(one.memory_mib for one in done)))
            say(f"round {number + 1}/{rounds}: {name}: {rate:.1f} clips/s")
    return {
        name: Figure(tuple(rate for rate, _ in pairs), max(memory for _, memory in pairs))
        for name, pairs in seen.items()
    }


def _together(case: Case) -> list[Rate]:
    environment = {name: value for name, value in os.environ.items() if name not in ("LD_PRELOAD", "MALLOC_CONF")}
    environment |= {"CUDA_VISIBLE_DEVICES": ""}
    if case.fast_allocator:
        environment |= worker_environment()
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "orchestrator.bench", json.dumps(task._asdict())],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for task in case.tasks
    ]
    return [_rate(process) for process in started]


def _rate(process: "subprocess.Popen[str]") -> Rate:
    out, problem = process.communicate()
    if process.returncode:
        last: Sequence[str] = problem.strip().splitlines()[-1:] or [f"exit code {process.returncode}"]
        raise ResourceError(f"a benchmark process failed: {last[0]}; with too little memory, try --batch 16")
    return Rate(**json.loads(out.splitlines()[-1]))
