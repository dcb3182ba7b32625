"""What the service answers, as it is written into its OpenAPI description."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from orchestrator.serving.web.limits import Limits


class Answered(BaseModel):
    """An answer; unknown keys are an error, so that the description is complete."""

    model_config = ConfigDict(extra="forbid")


class Problem(Answered):
    """Why a request was not answered."""

    detail: str
    valid: list[str] | None = Field(None, description="what could have been sent instead")


class Health(Answered):
    """Whether clips can be scored now."""

    status: Literal["ready", "loading", "unavailable"]


class Section(Answered):
    """Part of a machine's recordings with a threshold of its own."""

    section: str
    threshold: float = Field(description="a clip with a higher score is called anomalous")


class Machine(Answered):
    """A machine that the model knows."""

    machine: str
    sections: list[Section]


class Model(Answered):
    """What is served."""

    study: str
    system: str
    title: str
    output: str = Field(description="what a score is: distance, mse or mahalanobis")
    members: int = Field(description="networks whose scores are averaged")
    percentile: float = Field(description="of the normal training scores' gamma distribution: the threshold")
    min_seconds: float = Field(description="shorter recordings are not scored")
    training_data: str
    code: str
    machines: list[Machine]

    def known(self) -> dict[str, list[str]]:
        """Sections of each machine."""
        return {entry.machine: [section.section for section in entry.sections] for entry in self.machines}


class Served(Answered):
    """The model, and what a request may hold."""

    model: Model
    limits: Limits


class Spectrogram(Answered):
    """Log-mel energies of a clip, one byte a value: 0 is low_db, 255 is high_db."""

    bands: int = Field(description="rows, the first is the lowest frequency")
    columns: int
    seconds: float = Field(description="that the columns span")
    low_db: float
    high_db: float
    data: str = Field(description="base64 of bands x columns bytes, band by band")


class ClipAnswer(Answered):
    """One row a recording, in the order of the upload: either the figures, or the problem."""

    file: str = Field(description="the name as it was sent, at most 200 characters of it")
    machine: str
    section: str
    score: float | None
    threshold: float | None
    decision: Literal["anomaly", "normal"] | None
    percentile: float | None = Field(description="percent of the normal training clips that score no higher")
    seconds: float | None = Field(description="of the recording")
    problem: str = Field(description="why there are no figures; empty where there are")
    spectrogram: Spectrogram | None = Field(None, description="only where it was asked for")


class ScoreAnswer(Answered):
    """All rows of an upload."""

    study: str
    system: str
    clips: list[ClipAnswer]
