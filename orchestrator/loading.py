"""From a YAML file and `key=value` overrides to a checked study, with every mistake named at once."""

import re
import types
import typing
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError

from orchestrator.config import SCORES, Study
from orchestrator.errors import ConfigError, DataError
from orchestrator.recipes import ExtractorRecipe
from orchestrator.storage import Store

GROUP_DEFAULTS = "recipe"
STUDY = "study.yaml"  # the resolved study, in its results
LIST_ITEM = re.compile(r"(recipe|groups\.[^.=]+)\.(\w+)\.\d+[.=]")  # an override inside a list of a recipe
# what PyYAML and OmegaConf raise for odd text: impossible dates, 5000-digit numbers and endless nesting included
UNREADABLE = (yaml.YAMLError, OmegaConfBaseException, OSError, ValueError, TypeError, LookupError, RecursionError)


def load_study(path: str | Path, overrides: Sequence[str] = ()) -> Study:
    """Read a study file; `overrides` are `data.root=DIR`, `recipe.epochs=2`, `groups.G.branches.1.tmn=false`, ...

    The block `recipe` holds defaults for all groups and disappears in the result: each group is a whole recipe.
    ConfigError names every mistake of the file and the first that is no `key=value` among the overrides.
    """
    path = Path(path)
    return _checked(path, _read(path), overrides)


def read_study(store: Store) -> Study:
    """The study that a results folder was made by, with its storage where it lies now; DataError where it is none."""
    if not store.exists(STUDY):
        raise DataError(f"{store.uri} is no study's folder (no {STUDY} there); give results/<study>, made by `asd run`")
    raw = OmegaConf.create(store.read(STUDY).decode())
    assert isinstance(raw, DictConfig)
    return _checked(f"{store.uri}/{STUDY}", raw, ()).model_copy(update={"storage": store.uri.rpartition("/")[0]})


def study_store(study: Study) -> Store:
    """Where a study keeps everything: a folder, or a place of an object store."""
    return Store.at(study.storage).child(study.name)


def _checked(path: str | Path, raw: DictConfig, overrides: Sequence[str]) -> Study:
    late = [o for o in overrides if LIST_ITEM.match(o) and o.startswith("groups.")]  # the list may be `recipe`'s
    plain = _resolved(path, raw, [o for o in overrides if o not in late])
    defaults = plain.get(GROUP_DEFAULTS)
    mistakes = _merge_recipe(plain)
    if late:
        plain = _resolved(path, OmegaConf.create(plain), late)
    try:
        study = Study.model_validate(plain)
    except ValidationError as error:
        mistakes += _explain_all(error, _wrong_defaults(defaults))
    if mistakes:
        lines = "\n".join(f"  - {mistake}" for mistake in dict.fromkeys(mistakes))
        raise ConfigError(f"{path}: {len(dict.fromkeys(mistakes))} mistake(s)\n{lines}")
    return study


def study_yaml(study: Study) -> str:
    """The resolved study as YAML that `load_study` reads back."""
    return yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _read(path: Path) -> DictConfig:
    if not path.is_file():
        known = sorted(str(p) for p in Path("configs/studies").glob("*.yaml"))
        near = get_close_matches(str(path), known, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]}?" if near else "."
        raise ConfigError(f"no study file {path}{hint} Studies here: {', '.join(known) or 'none'}")
    try:
        raw = OmegaConf.load(path)
    except UNREADABLE as error:
        raise ConfigError(f"{path}: not readable as YAML: {error}") from error
    if not isinstance(raw, DictConfig) or not raw:
        raise ConfigError(f"{path}: a study is a mapping with {', '.join(Study.model_fields)}")
    return raw


def _resolved(path: str | Path, raw: DictConfig, overrides: Sequence[str]) -> dict[Any, Any]:
    for override in overrides:
        _apply(raw, override)
    try:
        plain = OmegaConf.to_container(raw, resolve=True)
    except UNREADABLE as error:
        raise ConfigError(f"{path}: {error}") from error
    assert isinstance(plain, dict)
    return plain


def _apply(raw: DictConfig, override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"override {override!r} is not of the form key=value, for example recipe.epochs=2")
    try:
        value: Any = yaml.safe_load(text)
        _spell_out_list(raw, override)
        OmegaConf.update(raw, key, value, merge=not isinstance(value, list), force_add=True)
    except (*UNREADABLE, AttributeError) as error:
        raise ConfigError(f"override {override!r}: {error}") from error


def _spell_out_list(raw: DictConfig, override: str) -> None:
    """Write the schema's default list where an override changes an item of a list that nobody wrote."""
    item = LIST_ITEM.match(override)
    place = f"{item[1]}.{item[2]}" if item else ""
    if item and item[2] in ExtractorRecipe.model_fields and OmegaConf.select(raw, place) is None:
        OmegaConf.update(
            raw, place, ExtractorRecipe.model_validate({}).model_dump(mode="json")[item[2]], force_add=True
        )


def _merge_recipe(plain: dict[Any, Any]) -> list[str]:
    """Fold the `recipe` block into every group of extractors; returns its own mistakes, which groups would repeat."""
    defaults = plain.pop(GROUP_DEFAULTS, None) or {}
    groups = plain.get("groups")
    if not isinstance(defaults, dict):
        return [f"{GROUP_DEFAULTS}: must be a mapping of recipe fields (given: {defaults!r})"]
    known = {key: value for key, value in defaults.items() if key in ExtractorRecipe.model_fields}
    mistakes = [
        f"{GROUP_DEFAULTS}.{k}: {_nearest(str(k), ExtractorRecipe.model_fields)}" for k in defaults if k not in known
    ]
    if not isinstance(groups, dict):
        return mistakes
    for name, group in groups.items():
        if group is None or (isinstance(group, dict) and group.get("kind", "extractor") == "extractor"):
            groups[name] = _merged(known, group or {})
    return mistakes


def _merged(base: dict[Any, Any], top: dict[Any, Any]) -> dict[Any, Any]:
    """`top` over `base`: mappings key by key, anything else (lists too) as a whole."""
    both = {k: _merged(base[k], v) for k, v in top.items() if isinstance(v, dict) and isinstance(base.get(k), dict)}
    return {**base, **top, **both}


def _nearest(word: str, valid: typing.Iterable[str]) -> str:
    choices = list(valid)
    near = get_close_matches(word, choices, n=1, cutoff=0.5)
    return (f"unknown key; did you mean `{near[0]}`? " if near else "unknown key. ") + f"Valid: {', '.join(choices)}"


def _causes(error: ValidationError) -> list[Any]:
    """The mistakes without their echoes: a list whose items are wrong is also called too short."""
    details = error.errors()
    places = [detail["loc"] for detail in details]
    return [d for d in details if d["type"] != "too_short" or not any(_below(place, d["loc"]) for place in places)]


def _wrong_defaults(defaults: object) -> set[tuple[Any, str]]:
    """Place and message of the wrong values in the `recipe` block, of which every group gets a copy."""
    try:
        ExtractorRecipe.model_validate(defaults or {})
    except ValidationError as error:
        return {(detail["loc"], detail["msg"]) for detail in error.errors() if detail["loc"]}
    return set()


def _explain_all(error: ValidationError, wrong_defaults: set[tuple[Any, str]]) -> list[str]:
    lines = []
    for detail in _causes(error):
        line, loc = _explain(Study, detail), detail["loc"]
        if loc[:1] == ("groups",) and (loc[3:], detail["msg"]) in wrong_defaults:
            line = line.replace(f"groups.{loc[1]}.", f"{GROUP_DEFAULTS}.", 1)  # told once, where it was written
        lines.append(line)
    return lines


def _below(place: Sequence[Any], above: Sequence[Any]) -> bool:
    return len(place) > len(above) and place[: len(above)] == above


def _explain(model: type[BaseModel], detail: Any) -> str:
    """One pydantic error as `place: what is wrong, what would be valid`."""
    place = _place(detail["loc"])
    owner = _model_at(model, detail["loc"][:-1])
    if detail["type"] == "extra_forbidden":
        return f"{place}: {_nearest(str(detail['loc'][-1]), owner.model_fields if owner else ())}"
    field = owner.model_fields.get(str(detail["loc"][-1])) if owner and detail["loc"] else None
    meant = f"; meant is: {field.description}" if field and field.description else ""
    if detail["type"] == "union_tag_invalid":
        valid = detail["ctx"]["expected_tags"]
        near = get_close_matches(detail["ctx"]["tag"], re.findall(r"'([^']+)'", valid), n=1)
        hint = f"did you mean `{near[0]}`? " if near else ""
        return f"{place}.kind: {detail['ctx']['tag']!r} is no kind of this; {hint}Valid: {valid}"
    if detail["type"] == "missing":
        return f"{place}: this field is required{meant}"
    message = detail["msg"].removeprefix("Value error, ").replace("Tuple", "List").replace("tuple", "list")
    given = "" if isinstance(detail["input"], dict | BaseModel) else f" (given: {detail['input']!r})"
    if detail["type"] == "literal_error" and isinstance(detail["input"], str):
        near = get_close_matches(detail["input"], re.findall(r"'([^']+)'", detail["ctx"]["expected"]), n=1)
        given += f"; did you mean `{near[0]}`?" if near else ""
    return f"{place}: {message}{given}{meant}" if place else message


def _place(loc: Sequence[Any]) -> str:
    """Where in the file: the kind of a group is no key on the way to its fields."""
    tagged = loc[:1] == ("groups",) and len(loc) > 2 and loc[2] in SCORES
    parts = [*loc[:2], *loc[3:]] if tagged else loc
    return ".".join(str(part) for part in parts)


def _model_at(kind: Any, loc: Sequence[Any]) -> type[BaseModel] | None:
    """The pydantic model found by walking `loc` down the annotations, through tuples, dicts and tagged unions."""
    while typing.get_origin(kind) is typing.Annotated:
        kind = typing.get_args(kind)[0]
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        if not loc:
            return kind
        field = kind.model_fields.get(str(loc[0]))
        return _model_at(field.annotation, loc[1:]) if field else None
    arguments = typing.get_args(kind)
    if not arguments or not loc:
        return None
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        tagged = [a for a in arguments if "kind" in getattr(a, "model_fields", ())]
        named = [a for a in tagged if loc[0] in typing.get_args(a.model_fields["kind"].annotation)]
        return _model_at(named[0], loc[1:]) if named else None
    element = arguments[-1] if typing.get_origin(kind) is dict else arguments[0]
    return _model_at(element, loc[1:])
