"""What one sees of a search: a line for every trial that ends, and what the others do, with rate and time left."""

import threading
import time
from types import TracebackType
from typing import Any

import ray
from rich.console import Console
from rich.status import Status as Spinner

from orchestrator.display import FIRST_ESTIMATE_SECONDS, LINE_EVERY_SECONDS, RATE_WINDOW_SECONDS, duration
from orchestrator.member_queue import Status
from orchestrator.tuning.ledger import Trial, best
from orchestrator.tuning.source import TrialSource
from orchestrator.tuning.template import as_text

LOOK_EVERY_SECONDS = 1.0


class SearchDisplay:
    """The view of a search; while it `watches`, a thread asks the board what the trials do."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.samples: list[tuple[float, float]] = []
        self.ended = threading.Event()

    def say(self, message: str) -> None:
        self.console.print(message, highlight=False, markup=False, soft_wrap=True)

    def trial_ended(self, trial: Trial, trials: list[Trial], total: int, metric: str) -> None:
        """One line: what came out, and what is best so far."""
        done = sum(each.ended for each in trials)
        point = " ".join(f"{field}={as_text(value)}" for field, value in trial.point.items())
        figure = f" {metric} {100 * trial.figures[metric]:.2f} %" if metric in trial.figures else ""
        after = f" after epoch {trial.epoch}" if trial.state == "stopped" else ""
        problem = f": {trial.error}" if trial.error else ""
        top = best(trials, metric)
        leader = f"; best is trial {top.number} with {100 * top.figures[metric]:.2f} %" if top else ""
        self.say(
            f"{trial.title} {trial.state}{after}{figure} in {duration(trial.seconds)} [{point}]{problem} - "
            f"{done}/{total} trials{leader}"
        )

    def watch(self, board: Any, source: TrialSource) -> "Watch":
        return Watch(self, board, source)


class Watch:
    """A context in which the running trials are shown."""

    def __init__(self, display: SearchDisplay, board: Any, source: TrialSource) -> None:
        self.display, self.board, self.source = display, board, source
        self.ended = threading.Event()
        self.samples: list[tuple[float, float]] = []
        self.started, self.left_at_start = time.monotonic(), source.left
        self.thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ended.set()
        self.thread.join()

    def _run(self) -> None:
        terminal, said = self.display.console.is_terminal, time.monotonic()
        spinner = Spinner("starting the trials", console=self.display.console) if terminal else None
        if spinner:
            spinner.start()
        try:
            while not self.ended.wait(LOOK_EVERY_SECONDS):
                status: Any = ray.get(self.board.status.remote())
                line = self._line(status)
                if spinner:
                    spinner.update(line)
                elif time.monotonic() - said > LINE_EVERY_SECONDS:
                    said = time.monotonic()
                    self.display.say(line)
        finally:
            if spinner:
                spinner.stop()

    def _line(self, status: Status) -> str:
        now = time.monotonic()
        if status.clips:
            self.samples = [s for s in self.samples if now - s[0] < RATE_WINDOW_SECONDS] + [(now, status.clips)]
        running = set(self.source.running.values())
        doing = [f"trial {i}: {d['member']} {d['stage']}" for i, d in sorted(status.slots.items()) if i in running]
        return "; ".join([f"trials left: {self.source.left}", *doing, self._pace()])

    def _pace(self) -> str:
        (first, before), (last, after) = (self.samples[0], self.samples[-1]) if self.samples else ((0.0, 0.0),) * 2
        if last - first >= FIRST_ESTIMATE_SECONDS and after > before:
            rate = (after - before) / (last - first)
            return f"{rate:.0f} clips/s, at most {duration(self.source.passes_left() / rate)} left"
        ended = self.left_at_start - self.source.left
        if not ended:
            return "estimating the time left"
        return f"about {duration(self.source.left * (time.monotonic() - self.started) / ended)} left"
