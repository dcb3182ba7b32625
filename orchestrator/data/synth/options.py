"""What a made-up factory looks like: sizes, loudness of the background, how hard its faults are to hear."""

import difflib
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from orchestrator.data.synth.catalogue import MACHINES
from orchestrator.errors import ConfigError

DIFFICULTY_TO_STRENGTH = {"easy": 2.0, "default": 1.0, "hard": 0.5}


class FactoryOptions(BaseModel):
    """All that decides a factory's bytes; a wrong value raises `ConfigError` with every fault at once."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(0, ge=0, description="the same seed gives the same bytes")
    machines: tuple[str, ...] = Field(tuple(MACHINES), min_length=1, description="machine types to make")
    without_attributes: tuple[str, ...] = Field(("gearbox", "slider"), description="types released as noAttribute")
    train_source: int = Field(12, ge=1, le=9999, description="source training clips a machine")
    train_target: int = Field(4, ge=1, le=9999, description="target training clips a machine; few, as in the challenge")
    test_per_condition: int = Field(5, ge=1, le=9999, description="test clips per domain and label")
    seconds: float = Field(4.5, ge=1.0, le=60.0, description="length of a clip, s")
    snr_db: float = Field(6.0, ge=-40, le=60, description="middle of the clips' ratio of machine to other noise, dB")
    fault_strength: float = Field(1.0, gt=0, le=10, description="factor on fault strengths: 2 easy, 0.5 hard")
    external: int = Field(120, ge=0, le=100_000, description="external candidate clips")
    plant_faults: bool = Field(False, description="plant broken files and list them")

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            lines = [f"  {'.'.join(map(str, e['loc']))}: {e['msg']} (got {e['input']!r})" for e in error.errors()]
            raise ConfigError(
                "the factory's options are not valid:\n" + "\n".join(lines) + "\nsee asd synth --help"
            ) from None

    @field_validator("machines", "without_attributes")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in MACHINES:
                close = difflib.get_close_matches(name, MACHINES, 1, 0.4)
                hint = f"did you mean {close[0]!r}? " if close else ""
                raise ValueError(f"no machine type {name!r}: {hint}valid are {', '.join(MACHINES)}")
        return tuple(dict.fromkeys(names))


def strength_of(difficulty: str) -> float:
    """Turn `easy`, `default`, `hard` or a number (2 is twice as hard as default) into the factor on fault strengths."""
    if difficulty in DIFFICULTY_TO_STRENGTH:
        return DIFFICULTY_TO_STRENGTH[difficulty]
    try:
        hardness = float(difficulty)
    except ValueError:
        hardness = 0.0
    if not 0.1 <= hardness <= 10:
        raise ConfigError(f"--difficulty {difficulty!r}: give easy, default, hard, or a number from 0.1 to 10")
    return 1 / hardness
