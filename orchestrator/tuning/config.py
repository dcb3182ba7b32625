"""The schema of a search file, and how it is read: every mistake is named at once, before anything starts."""

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from omegaconf import OmegaConf
from pydantic import BeforeValidator, Field, ValidationError, model_validator

from orchestrator.config import TrackingConfig
from orchestrator.errors import ConfigError
from orchestrator.loading import UNREADABLE
from orchestrator.recipes import Frozen, Name
from orchestrator.tuning.space import PREFIXES, Domain, size

Metric = Literal["official", "seeds_mean", "label_free"]


class AshaConfig(Frozen):
    """Early stopping by asynchronous successive halving: the worse trials end at rungs (epochs)."""

    grace_epochs: int = Field(1, ge=1, description="the first rung: no trial ends before it")
    reduction: int = Field(3, ge=2, le=10, description="one in so many goes on; rungs are this factor apart")


def _flat(value: object) -> object:
    return dict(_leaves("", value)) if isinstance(value, dict) else value


def _leaves(prefix: str, value: dict[Any, Any]) -> Iterator[tuple[str, Any]]:
    """Nested mappings as one level of dotted keys."""
    for key, inner in value.items():
        if isinstance(inner, dict) and inner:
            yield from _leaves(f"{prefix}{key}.", inner)
        else:
            yield f"{prefix}{key}", inner


class Search(Frozen):
    """Which fields of one group of a study to vary, how, and what makes a trial better than another."""

    name: Name = Field(description="of the folder that the search writes into, below the study's storage")
    study: str | dict[str, Any] = Field(description="study file, or a study written out here")
    group: Name = Field(description="the study's group whose recipe is searched; its other groups play no part")
    overrides: Annotated[dict[str, Any], BeforeValidator(_flat)] = Field(
        {}, description="of the study, in all trials: fields as in `asd run STUDY field=value`"
    )
    space: dict[str, Domain] = Field(
        min_length=1, description="field -> {choice: [...]}, {uniform: [a, b]}, {loguniform: [a, b]}, {integer: ...}"
    )
    method: Literal["random", "grid", "optuna"] = Field(
        "random", description="optuna: TPE, which learns from the trials"
    )
    trials: int | None = Field(None, ge=1, le=100_000, description="raise it to extend a search; unset: the whole grid")
    seed: int = Field(0, ge=0, le=2**31, description="of the points, not of the members")
    metric: Metric = Field(
        "official", description="what is maximised; seeds_mean: of single seeds; label_free: without anomalies"
    )
    label_free: bool = Field(False, description="compute the label-free figure beside another metric, to compare them")
    snr_db: float = Field(5.0, ge=-20, le=40, description="how faint the foreign sound of label_free's blends is")
    asha: AshaConfig | None = Field(None, description="unset: every trial is trained to its end")
    storage: str | None = Field(None, description="folder or URI; unset: the study's")
    tracking: TrackingConfig | None = Field(None, description="unset: the study's")

    @model_validator(mode="after")
    def _consistent(self) -> "Search":
        mistakes = [_field_mistake(field) for field in self.space]
        mistakes += [f"space.{a}: {b} varies it too" for a in self.space for b in self.space if a.startswith(f"{b}.")]
        mistakes += self._count_mistakes()
        if "." in self.group:
            mistakes.append(f"group {self.group!r}: a group with a dot in its name cannot be searched; rename it")
        if told := [mistake for mistake in mistakes if mistake]:
            raise ValueError("\n".join(told))
        return self

    def _count_mistakes(self) -> list[str]:
        points = size(self.space)
        if self.method != "grid":
            if self.trials is None:
                return [f"trials: how many? method {self.method} has no end of its own"]
            over = self.method == "random" and points is not None and self.trials > points
            return [f"trials {self.trials}: the space has {points} points; trials={points} tries all"] if over else []
        if points is None:
            ranges = [field for field, domain in self.space.items() if not hasattr(domain, "values")]
            return [f"method grid needs choices or integer ranges, but {', '.join(ranges)} are ranges; use random"]
        if self.trials is not None and self.trials < points:
            return [
                f"the grid has {points} points, trials are {self.trials}; leave trials away to try all, "
                "drop values, or use method=random"
            ]
        return []

    @property
    def total(self) -> int:
        """Trials that the search ends with."""
        points = size(self.space)
        return points if self.method == "grid" and points is not None else self.trials or 0

    @property
    def wants_label_free(self) -> bool:
        return self.label_free or self.metric == "label_free"

    @property
    def varies_backend(self) -> bool:
        return any(field.partition(".")[0] == "backend" for field in self.space)


def _field_mistake(field: str) -> str | None:
    head = field.partition(".")[0]
    if head in PREFIXES:
        return None
    near = get_close_matches(head, PREFIXES, n=1, cutoff=0.5)
    hint = f"; did you mean `{near[0]}`?" if near else ""
    return f"space.{field}: fields of a search begin with {', '.join(PREFIXES)}, such as recipe.clip_seconds{hint}"


def read_search(path: str | Path, overrides: Sequence[str] = ()) -> Search:
    """Read a search file; overrides are its own fields (trials=20), all others are the study's (data.root=DIR)."""
    raw = _read(Path(path))
    for override in overrides:
        _apply(raw, override)
    try:
        return Search.model_validate(raw)
    except ValidationError as error:
        raise mistakes(path, [line for detail in error.errors() for line in _told(detail)]) from None


def mistakes(place: object, lines: Sequence[str]) -> ConfigError:
    """All mistakes of a file as one error."""
    told = list(dict.fromkeys(lines))
    return ConfigError(f"{place}: {len(told)} mistake(s)\n" + "\n".join(f"  - {line}" for line in told))


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        known = sorted(map(str, Path("configs/searches").glob("*.yaml")))
        near = get_close_matches(str(path), known, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]}?" if near else "."
        raise ConfigError(f"no search file {path}{hint} Searches here: {', '.join(known) or 'none'}")
    try:
        raw = OmegaConf.to_container(OmegaConf.load(path), resolve=False)  # a study inside resolves its own
    except UNREADABLE as error:
        raise ConfigError(f"{path}: not readable as YAML: {error}") from error
    if not isinstance(raw, dict) or not raw:
        raise ConfigError(f"{path}: a search is a mapping with {', '.join(Search.model_fields)}")
    return {str(key): value for key, value in raw.items()}


def _apply(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"override {override!r} is not of the form key=value, for example trials=20 or seeds=2")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"override {override!r}: {error}") from error
    head, _, rest = key.partition(".")
    if head not in Search.model_fields:
        raw["overrides"] = {**(raw.get("overrides") or {}), key: value}
    elif not rest:
        raw[head] = value
    else:
        inner = raw.get(head)
        raw[head] = {**(inner if isinstance(inner, dict) else {}), rest: value}


def _told(detail: Any) -> list[str]:
    """One pydantic error as lines of `place: what is wrong, what would be valid`."""
    place = ".".join(map(str, detail["loc"]))
    field = Search.model_fields.get(place)
    meant = f"; meant is: {field.description}" if field and field.description else ""
    if detail["type"] == "extra_forbidden":
        owner = AshaConfig if place.startswith("asha.") else TrackingConfig if "." in place else Search
        near = get_close_matches(place.rpartition(".")[2], owner.model_fields, n=1, cutoff=0.5)
        hint = f"did you mean `{near[0]}`? " if near else ""
        return [f"{place}: unknown key; {hint}Valid: {', '.join(owner.model_fields)}"]
    if detail["type"] == "missing":
        return [f"{place}: this field is required{meant}"]
    message = detail["msg"].removeprefix("Value error, ")
    if not place:
        return message.splitlines()
    given = "" if isinstance(detail["input"], dict) else f" (given: {detail['input']!r})"
    return [f"{place}: {message}{given if detail['type'] != 'value_error' else ''}{meant}"]
