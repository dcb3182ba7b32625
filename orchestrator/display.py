"""The live view of a run: every slot's member, clips per second and time left; plain lines without a terminal."""

import time
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator.member_queue import Status
from orchestrator.runtime import Slots

if TYPE_CHECKING:  # takes seconds to import, and is only named here
    from orchestrator.external_ledger import Progress
    from orchestrator.plan import Plan

LINE_EVERY_SECONDS = 15.0
RATE_WINDOW_SECONDS = 60.0
FIRST_ESTIMATE_SECONDS = 8.0


class RunDisplay:
    """The view of a run; use it as a context so that the terminal is given back."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live: Live | None = None
        self.samples: list[tuple[float, float]] = []
        self.total = 0.0
        self.pending = 0
        self.plan: Plan | None = None
        self.line_at = 0.0
        self.external_from: tuple[float, int, int] | None = None  # time, shards, candidates at the first news

    def __enter__(self) -> "RunDisplay":
        return self

    def __exit__(self, *error: object) -> None:
        if self.live is not None:
            self.live.stop()

    def say(self, message: str) -> None:
        self.console.print(message, highlight=False, markup=False, soft_wrap=True)

    def members(self, status: Status, plan: "Plan", slots: Slots) -> None:
        """Show the farm: every slot's member, and how the whole goes on."""
        now = time.monotonic()
        if plan is not self.plan:  # the next stage
            self.plan, self.samples, self.total = plan, [], plan.clip_passes() + status.clips
            self.pending = len(plan.pending) + len(status.finished)
        if status.clips:  # slots that are still starting say nothing about the rate
            self.samples = [s for s in self.samples if now - s[0] < RATE_WINDOW_SECONDS] + [(now, status.clips)]
        if self.console.is_terminal:
            if self.live is None:
                self.live = Live(console=self.console, refresh_per_second=4, transient=True)
                self.live.start()
            self.live.update(self._view(status, plan, slots))
        elif now - self.line_at > LINE_EVERY_SECONDS:
            self.line_at = now
            self.say(self._headline(status, plan))

    def external(self, progress: "Progress") -> None:
        """Show how the scoring of external audio goes on."""
        now = time.monotonic()
        if self.live is not None:
            self.live.stop()
            self.live = None
        self.external_from = self.external_from or (now, progress.shards_done, progress.candidates)
        last = progress.shards_done == progress.shards
        if now - self.line_at > (1.0 if self.console.is_terminal else LINE_EVERY_SECONDS) or last:
            self.line_at = now
            self.say(self._external_line(progress, now))

    def _external_line(self, progress: "Progress", now: float) -> str:
        assert self.external_from is not None
        since, shards, candidates = self.external_from
        seconds, done = now - since, progress.shards_done - shards
        rate = f", {(progress.candidates - candidates) / seconds:.0f} clips/s" if seconds > 1 else ""
        left = (progress.shards - progress.shards_done) * seconds / done if done else 0.0
        time_left = f", {duration(left)} left" if left else ""
        return (
            f"external audio: {progress.shards_done}/{progress.shards} shards, {progress.candidates} candidates scored"
            f"{rate}, {progress.kept} kept so far, {progress.problems} not decodable{time_left}"
        )

    def _rate(self) -> float:
        """Clips per second of the last minute; 0 until there are some seconds to judge by."""
        if not self.samples:
            return 0.0
        (first, before), (last, after) = self.samples[0], self.samples[-1]
        return (after - before) / (last - first) if last - first >= FIRST_ESTIMATE_SECONDS else 0.0

    def _headline(self, status: Status, plan: "Plan") -> str:
        done = len(plan.members) - self.pending + len(status.finished)
        failed = f", {len(status.failed)} failed" if status.failed else ""
        return f"{done}/{len(plan.members)} members{failed}, {self._pace(status)}"

    def _pace(self, status: Status) -> str:
        rate = self._rate()
        if not rate:
            return "estimating the time left" if status.clips else "starting the slots"
        return f"{rate:.0f} clips/s, {duration(max(0, self.total - status.clips) / rate)} left"

    def _view(self, status: Status, plan: "Plan", slots: Slots) -> Group:
        table = Table.grid(padding=(0, 2))
        for slot in range(max(slots.number, *(n + 1 for n in status.slots), 0)):
            doing = status.slots.get(slot)
            table.add_row(f"slot {slot}", *((doing["member"], doing["stage"]) if doing else ("starting or idle", "")))
        bar = ProgressBar(total=max(self.total, 1), completed=min(status.clips, self.total), width=60)
        return Group(Text(self._headline(status, plan), style="bold"), bar, table)


def duration(seconds: float) -> str:
    """3725 -> "1 h 02 min"; 65 -> "1 min 05 s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
