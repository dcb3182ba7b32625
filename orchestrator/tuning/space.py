"""What is varied: the values that fields of a study may take, and the points of the space by grid or at random."""

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import numpy as np
from pydantic import BeforeValidator, Field, ValidationError, model_validator

from orchestrator.members import digest
from orchestrator.recipes import Frozen

Point = dict[str, Any]  # field -> value
PREFIXES = ("recipe", "backend", "pseudo_labels")


class Choice(Frozen):
    """One of some values; a value may be a mapping that sets several fields at once."""

    choice: tuple[Any, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _distinct(self) -> "Choice":
        if len({digest(value) for value in self.choice}) < len(self.choice):
            raise ValueError(f"choice {list(self.choice)} repeats a value")
        return self

    def values(self) -> tuple[Any, ...]:
        return self.choice

    def extremes(self) -> tuple[Any, ...]:
        """What is checked before a search: everything."""
        return self.choice

    def draw(self, share: float) -> Any:
        """The value at `share` in [0, 1) of the way through."""
        return self.choice[int(share * len(self.choice))]


class _Range(Frozen):
    """Numbers between two bounds."""

    @property
    def bounds(self) -> tuple[float, float]:
        (bounds,) = self.model_dump().values()
        return bounds

    def extremes(self) -> tuple[Any, ...]:
        """What is checked before a search: both ends."""
        return self.bounds

    @model_validator(mode="after")
    def _ordered(self) -> "_Range":
        low, high = self.bounds
        (name,) = type(self).model_fields
        if not low < high:
            raise ValueError(f"{name} [{low}, {high}]: the first bound must be below the second")
        if name.startswith("log") and low <= 0:
            raise ValueError(f"{name} [{low}, {high}]: bounds of a logarithmic range are above 0")
        return self


class Uniform(_Range):
    """A number between two bounds."""

    uniform: tuple[float, float]

    def draw(self, share: float) -> float:
        low, high = self.bounds
        return _readable(low + share * (high - low), low, high)


class LogUniform(_Range):
    """A number between two bounds, every factor equally likely."""

    loguniform: tuple[float, float]

    def draw(self, share: float) -> float:
        low, high = self.bounds
        return _readable(math.exp(math.log(low) + share * math.log(high / low)), low, high)


def _readable(value: float, low: float, high: float) -> float:
    """Four digits, which is what one would write into a study oneself."""
    return min(max(float(f"{value:.4g}"), low), high)


class Integer(_Range):
    """A whole number, both bounds included."""

    integer: tuple[int, int]

    def values(self) -> tuple[int, ...]:
        low, high = self.integer
        return tuple(range(low, high + 1))

    def draw(self, share: float) -> int:
        low, high = self.integer
        return low + int(share * (high - low + 1))


class LogInteger(_Range):
    """A whole number, both bounds included, every factor equally likely."""

    loginteger: tuple[int, int]

    def draw(self, share: float) -> int:
        low, high = (math.log(bound) for bound in (self.loginteger[0] - 0.5, self.loginteger[1] + 0.5))
        return min(max(round(math.exp(low + share * (high - low))), self.loginteger[0]), self.loginteger[1])


KINDS: dict[str, type[Choice] | type[_Range]] = {
    "choice": Choice,
    "uniform": Uniform,
    "loguniform": LogUniform,
    "integer": Integer,
    "loginteger": LogInteger,
}


def _as_domain(value: object) -> object:
    """`{choice: [...]}` as the class of that name; a plain list is a choice."""
    if isinstance(value, list):
        value = {"choice": value}
    if not isinstance(value, dict) or len(value) != 1 or next(iter(value)) not in KINDS:
        shown = ", ".join(value) if isinstance(value, dict) else repr(value)
        raise ValueError(f"one of {', '.join(KINDS)} is needed, such as {{choice: [1, 2]}} (given: {shown})")
    (kind,) = value
    try:
        return KINDS[kind].model_validate(value)
    except ValidationError as error:  # as one sentence; a nested error would be told as a list of lines
        told = (f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}" for detail in error.errors())
        raise ValueError("; ".join(text.removeprefix(": Value error, ") for text in told)) from None


Domain = Annotated[Choice | Uniform | LogUniform | Integer | LogInteger, BeforeValidator(_as_domain)]
Space = Mapping[str, Choice | Uniform | LogUniform | Integer | LogInteger]


def size(space: Space) -> int | None:
    """How many points there are; None where a field takes any number of a range."""
    if not all(isinstance(domain, Choice | Integer) for domain in space.values()):
        return None
    return math.prod(_count(domain) for domain in space.values())


def _count(domain: object) -> int:
    if isinstance(domain, Integer):
        return domain.integer[1] - domain.integer[0] + 1
    assert isinstance(domain, Choice)
    return len(domain.choice)


def grid(space: Space) -> Iterator[Point]:
    """Every point of a finite space, the last field varied first."""
    finite = [domain for domain in space.values() if isinstance(domain, Choice | Integer)]
    assert len(finite) == len(space)
    for values in itertools.product(*(domain.values() for domain in finite)):
        yield dict(zip(space, values, strict=True))


def at_random(space: Space, seed: int) -> Iterator[Point]:
    """Points at random, none twice; point k is the same however many are taken. Ends when a finite space is used up."""
    seen: set[str] = set()
    most = size(space)
    for draw in itertools.count():
        if most is not None and len(seen) >= most:
            return
        shares = np.random.default_rng([seed, draw]).random(len(space))
        point = {field: domain.draw(share) for (field, domain), share in zip(space.items(), shares, strict=True)}
        if digest(point) not in seen:
            seen.add(digest(point))
            yield point


def corners(space: Space) -> Iterator[Point]:
    """As few points as hold every value (of a range: both bounds) of every field: what is checked before a search."""
    values = {field: domain.extremes() for field, domain in space.items()}
    for turn in range(max(map(len, values.values()))):
        yield {field: options[turn % len(options)] for field, options in values.items()}
