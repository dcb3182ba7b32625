"""How busy a GPU is while something runs on it, as its driver tells."""

import os
import statistics
import subprocess
import threading
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple

SECONDS_BETWEEN = 0.5


class Usage(NamedTuple):
    """Of the whole GPU, whoever uses it; None where it was not told."""

    busy_percent: float | None = None  # median share of time in which any kernel ran
    used_mib: float | None = None  # the most
    problem: str = ""


class GpuWatch:
    """Looks at a GPU twice a second for as long as the context lasts; `usage` says what it saw."""

    def __init__(self, gpu: str, ask: "Callable[[str, str], str] | None" = None) -> None:
        self.gpu, self.ask = gpu, ask or nvidia_smi
        self.seen: list[tuple[float, float]] = []
        self.problem = ""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "GpuWatch":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def usage(self) -> Usage:
        """Over all looks."""
        if not self.seen:
            return Usage(problem=self.problem or "no sample of GPU utilisation was taken")
        busy, used = zip(*self.seen, strict=True)
        return Usage(statistics.median(busy), max(used))

    def _watch(self) -> None:
        while not self._ended.wait(SECONDS_BETWEEN):
            try:
                busy, used = self.ask("utilization.gpu,memory.used", self.gpu).split(",")
                self.seen.append((float(busy), float(used)))
            except FileNotFoundError:
                self.problem = "nvidia-smi is not there: utilisation and used memory are not known"
            except (OSError, subprocess.SubprocessError, ValueError) as error:
                self.problem = f"nvidia-smi does not tell: {error}"
            if self.problem:
                return


def nvidia_smi(query: str, gpu: str) -> str:
    """What the driver's tool says about one GPU: comma-separated, without units."""
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits", "-i", gpu]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout


def gpu_id(device: str) -> str:
    """What nvidia-smi calls torch's cuda or cuda:N; it knows nothing of CUDA_VISIBLE_DEVICES."""
    number = int(device.partition(":")[2] or 0)
    visible = [one.strip() for one in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if one.strip()]
    return visible[number] if number < len(visible) else str(number)


def gpu_name(device: str) -> str:
    """The model of a GPU."""
    try:
        return nvidia_smi("name", gpu_id(device)).strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown: nvidia-smi is not there or does not tell"
