"""What goes to a scorer and what comes back; the door knows these alone, and so needs no torch (half a gigabyte)."""

from typing import Literal, NamedTuple

from orchestrator.serving.web.schema import Spectrogram


class Clip(NamedTuple):
    """One uploaded recording."""

    data: bytes
    machine: str
    section: str | None
    spectrogram: bool


class Result(NamedTuple):
    """A clip's row: either the figures, or the problem."""

    machine: str
    section: str
    score: float | None = None
    threshold: float | None = None
    decision: Literal["anomaly", "normal"] | None = None
    percentile: float | None = None  # percent of the normal training clips that score no higher
    problem: str = ""
    seconds: float | None = None
    spectrogram: Spectrogram | None = None
