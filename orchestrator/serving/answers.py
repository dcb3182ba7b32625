"""From the bytes of recordings to rows that a person reads: score, threshold, decision, or why there is none."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from orchestrator.data.audio import decode
from orchestrator.errors import DataError
from orchestrator.serving.manifest import Place
from orchestrator.serving.scorer import EnsembleScorer, Wave

ANOMALY, NORMAL = "anomaly", "normal"
NO_MACHINE = "no machine given; this model knows {}"
NOT_FINITE = "its score is not a finite number"


class Recording(NamedTuple):
    """The bytes of a WAV, FLAC, OGG or MP3 file, and what it is a recording of."""

    data: bytes
    machine: str | None
    section: str | None = None
    problem: str = ""  # why there are no bytes


class Answer(NamedTuple):
    """One row: either the figures, or the problem."""

    machine: str
    section: str
    score: float | None
    threshold: float | None
    decision: str | None  # anomaly or normal
    percentile: float | None  # percent of the source training clips that score no higher
    problem: str


def answer(scorer: EnsembleScorer, recordings: Sequence[Recording]) -> list[Answer]:
    """Score recordings together, in their order; one that cannot be used is a row with a reason."""
    rows: dict[int, Answer] = {}
    good: list[tuple[int, Place, Wave]] = []
    for number, recording in enumerate(recordings):
        try:
            good.append((number, *_opened(scorer, recording)))
        except DataError as error:
            rows[number] = _failed(recording, getattr(error, "reason", str(error)))
    numbers, places, waves = zip(*good, strict=True) if good else ((), (), ())
    scored = scorer.score(waves, [place.machine for place in places], [place.section for place in places])
    for number, place, *figures in zip(numbers, places, *(column.tolist() for column in scored), strict=True):
        rows[number] = _judged(place, *figures)
    return [rows[number] for number in range(len(recordings))]


def _opened(scorer: EnsembleScorer, recording: Recording) -> tuple[Place, Wave]:
    if recording.problem:
        raise DataError(recording.problem)
    if not recording.machine:
        raise DataError(NO_MACHINE.format(", ".join(scorer.machines)))
    place = scorer.place(recording.machine, recording.section)
    wave = decode(recording.data, "", scorer.manifest.min_seconds).samples
    most = scorer.ensemble.most_samples
    return place, wave if most is None else wave[:most].copy()  # a copy lets go of a long recording's rest


def _judged(place: Place, score: float, threshold: float, anomaly: bool, percentile: float) -> Answer:
    if not math.isfinite(score):
        return Answer(place.machine, place.section, None, None, None, None, NOT_FINITE)
    return Answer(place.machine, place.section, score, threshold, ANOMALY if anomaly else NORMAL, percentile, "")


def _failed(recording: Recording, problem: str) -> Answer:
    return Answer(recording.machine or "", recording.section or "", None, None, None, None, problem)
