"""The most memory that this process and all that it started held at a time."""

import os
import threading
from pathlib import Path
from types import TracebackType

SECONDS_BETWEEN = 20.0  # a look at processes of a gigabyte takes 0.4 s


class PeakMemory:
    """Looks now and then, and at the end, at the PSS of this process and its descendants.

    PSS counts a page that n processes share as 1/n in each: the sum is what the machine has to hold.
    """

    def __init__(self) -> None:
        self.mib = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._look()  # before what was started ends
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(SECONDS_BETWEEN):
            self._look()

    def _look(self) -> None:
        self.mib = max(self.mib, sum(pss_mib(pid) for pid in _family(os.getpid())))


def pss_mib(pid: int | str = "self") -> float:
    """What a process holds now; 0 where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 2**10


def _family(first: int) -> list[int]:
    """A process and its descendants."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents[int(folder.name)] = int(status.rpartition(")")[2].split()[1])
    family = [first]
    for pid in family:  # grows while it is walked
        family += [child for child, parent in parents.items() if parent == pid]
    return family
