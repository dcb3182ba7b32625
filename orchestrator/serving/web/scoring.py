"""What a scorer does with one clip and with a batch of them; it knows neither HTTP nor Ray."""

import math
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from orchestrator.data.audio import SAMPLE_RATE
from orchestrator.errors import DataError, first_line
from orchestrator.serving.answers import NOT_FINITE
from orchestrator.serving.manifest import Place
from orchestrator.serving.scorer import EnsembleScorer
from orchestrator.serving.web.clips import Clip, Result
from orchestrator.serving.web.hearing import hear
from orchestrator.serving.web.schema import Machine, Model, Section, Spectrogram
from orchestrator.serving.web.spectrogram import draw

SAMPLES_AT_ONCE = 600 * SAMPLE_RATE


class Heard(NamedTuple):
    """A clip that can be scored."""

    place: Place
    wave: NDArray[np.int16]  # as much of it as the networks look at
    seconds: float
    spectrogram: Spectrogram | None


class ClipScorer:
    """A model with a bound on the length of recordings."""

    def __init__(self, scorer: EnsembleScorer, max_seconds: float) -> None:
        self.scorer, self.max_seconds = scorer, max_seconds

    def hear(self, clip: Clip) -> Heard | Result:
        """Decode; a clip that cannot be used is a row with the reason already."""
        try:
            place = self.scorer.place(clip.machine, clip.section)
            wave = hear(clip.data, min_seconds=self.scorer.manifest.min_seconds, max_seconds=self.max_seconds)
        except DataError as error:
            return Result(clip.machine, clip.section or "", problem=getattr(error, "reason", str(error)))
        most, picture = self.scorer.ensemble.most_samples, draw(wave) if clip.spectrogram else None
        return Heard(place, wave if most is None else wave[:most].copy(), len(wave) / SAMPLE_RATE, picture)

    def judge(self, clips: Sequence[Heard]) -> list[Result]:
        """Score clips together, in their order."""
        return [result for group in _groups(clips) for result in self._judge_group(group)]

    def _judge_group(self, clips: list[Heard]) -> list[Result]:
        """Together, or one by one where that fails: a clip must not take the others with it."""
        try:
            return list(self._judge(clips))
        except RuntimeError as error:  # for example, the GPU's memory is full
            if len(clips) > 1:
                return [result for clip in clips for result in self._judge_group([clip])]
            machine, section = clips[0].place
            return [Result(machine, section, problem=f"could not be scored: {first_line(error)}")]

    def _judge(self, clips: Sequence[Heard]) -> Iterator[Result]:
        places = [clip.place for clip in clips]
        waves, machines, sections = [clip.wave for clip in clips], *zip(*places, strict=True)
        scored = self.scorer.score(waves, machines, sections)
        columns = (column.tolist() for column in scored)
        for clip, score, threshold, anomaly, percentile in zip(clips, *columns, strict=True):
            machine, section = clip.place
            row = Result(machine, section, seconds=clip.seconds, spectrogram=clip.spectrogram)
            if math.isfinite(score):
                decision: Literal["anomaly", "normal"] = "anomaly" if anomaly else "normal"
                row = row._replace(score=score, threshold=threshold, decision=decision, percentile=percentile)
            yield row if math.isfinite(score) else row._replace(problem=NOT_FINITE)

    def model(self) -> Model:
        """What is served, for people and programs."""
        manifest = self.scorer.manifest
        machines = [
            Machine(
                machine=machine,
                sections=[
                    Section(section=section, threshold=self.scorer.judges[Place(machine, section)].threshold)
                    for section in sections
                ],
            )
            for machine, sections in self.scorer.sections.items()
        ]
        names = ("study", "system", "title", "output", "percentile", "min_seconds", "training_data", "code")
        facts = {name: getattr(manifest, name) for name in names}
        return Model(**facts, members=len(manifest.members), machines=machines)


def _groups(clips: Sequence[Heard]) -> Iterator[list[Heard]]:
    """Runs of clips of ten minutes together at most, or a single longer one."""
    group: list[Heard] = []
    for clip in clips:
        if group and sum(len(c.wave) for c in group) + len(clip.wave) > SAMPLES_AT_ONCE:
            yield group
            group = []
        group.append(clip)
    if group:
        yield group
