"""Measurements side by side: each in a process of its own, in turns, so that a noisy machine is noisy to all."""

import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from types import TracebackType
from typing import NamedTuple

from orchestrator.bench.tasks import Rate, Task
from orchestrator.errors import ResourceError

READY = "ready"  # what a process says once it is warm; it measures when it is given a line
START_SECONDS = 900.0  # a process that takes longer beyond its measurement hangs; what is compiled takes minutes

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
            done = together(case)
            rate = rate_of(done)
            seen[name].append((rate, sum(one.memory_mib for one in done)))
            say(f"round {number + 1}/{rounds}: {name}: {rate:.1f} clips/s")
    return {
        name: Figure(tuple(rate for rate, _ in pairs), max(memory for _, memory in pairs))
        for name, pairs in seen.items()
    }


def rate_of(done: Sequence[Rate]) -> float:
    """Clips per second of all processes."""
    return sum(one.clips / one.seconds for one in done)


def together(case: Case, watch: AbstractContextManager[object] | None = None) -> list[Rate]:
    """Start a process a task, let all measure once every one is warm; `watch` is entered for that time alone.

    ResourceError where one fails.
    """
    environment = _environment(case)
    with ExitStack() as stack:
        running = [stack.enter_context(_Process(task, environment)) for task in case.tasks]
        for process in running:
            process.wait_until_warm()
        if watch is not None:
            stack.enter_context(watch)
        for process in running:
            process.go()
        return [process.rate() for process in running]


def _environment(case: Case) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("LD_PRELOAD", "MALLOC_CONF")}
    if any(task.device != "cpu" for task in case.tasks):
        environment.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # that of nvidia-smi
    else:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    if case.fast_allocator:
        from orchestrator.runtime import worker_environment  # here: a bare GPU machine need not have Ray

        environment |= worker_environment()
    return environment


class _Process:
    """One task; ended where it is not needed any more."""

    def __init__(self, task: Task, environment: Mapping[str, str]) -> None:
        self.said = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process; no pipe: nobody would read it
        self.process = subprocess.Popen(
            [sys.executable, "-m", "orchestrator.bench", "--wait", json.dumps(task._asdict())],
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.said,
            text=True,
        )
        self.limit = START_SECONDS + task.seconds
        self.late = False
        self.clock = threading.Timer(self.limit, self._end)

    def __enter__(self) -> "_Process":
        self.clock.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clock.cancel()
        self.process.kill()
        self.process.communicate()
        self.said.close()

    def _end(self) -> None:
        self.late = True
        self.process.kill()

    def wait_until_warm(self) -> None:
        assert self.process.stdout is not None
        if READY not in (line.strip() for line in self.process.stdout):
            self.rate()

    def go(self) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended: `rate` says why
            self.process.stdin.write("\n")
            self.process.stdin.flush()

    def rate(self) -> Rate:
        out, _ = self.process.communicate()
        if self.process.returncode:
            reason = self._reason()
            hint = "; try --batch 16" if self.process.returncode == -signal.SIGKILL or "memory" in reason else ""
            raise ResourceError(f"a benchmark process failed: {reason}{hint}")
        return Rate(**json.loads(out.splitlines()[-1]))

    def _reason(self) -> str:
        if self.late:
            return f"not done after {self.limit:.0f} s"
        self.said.seek(0)
        lines = self.said.read().strip().splitlines()
        named = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
        return (named or lines or [f"exit code {self.process.returncode}"])[-1]
