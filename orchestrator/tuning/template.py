"""From a point of the search space to the study that tries it: an ordinary study of one group and one row."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from orchestrator.config import SCORES, Study, SystemConfig, uses_pseudo_labels
from orchestrator.errors import ConfigError
from orchestrator.loading import load_study
from orchestrator.recipes import AutoencoderRecipe, ExtractorRecipe, GroupRecipe
from orchestrator.tuning.config import Search, mistakes
from orchestrator.tuning.space import Point

FILE = "study.yaml"


class Template(NamedTuple):
    """A study with gaps; travels to the trials, so it holds text and no paths that only this machine knows."""

    label: str  # how messages call the study
    text: str
    overrides: tuple[str, ...]
    search: Search
    extractor: bool

    def study_of(self, point: Point) -> Study:
        """The study that tries a point; ConfigError where its values do not go together."""
        whole = _load(self.label, self.text, [*self.overrides, *as_overrides(point, self.search.group, self.extractor)])
        return _alone(whole, self.search)


def make_template(search: Search, place: Path) -> Template:
    """The template of a search read from `place`; ConfigError where its study is not valid or not searchable."""
    label, text = _source(search, place)
    overrides = tuple(f"{key}={as_text(value)}" for key, value in search.overrides.items())
    study = _load(label, text, overrides)
    if search.group not in study.groups:
        raise mistakes(
            place, [f"group: {search.group!r} is no group of {label}; its groups are {', '.join(study.groups)}"]
        )
    recipe = study.groups[search.group]
    lines = []
    if search.name == study.name and search.storage in (None, study.storage):
        lines.append(f"name: {search.name!r} is the study's own; a search needs a folder of its own")
    if isinstance(recipe, ExtractorRecipe) and recipe.core_set:
        lines.append(
            f"group: {search.group} trains on a core-set, which its own study chooses; search the group without"
            " core_set, then use its best recipe"
        )
    if isinstance(recipe, AutoencoderRecipe) and search.wants_label_free:
        lines.append("metric: label_free judges embeddings, which autoencoders have not; use official")
    lines += _unused(search, recipe)
    if lines:
        raise mistakes(place, lines)
    return Template(label, text, overrides, search, isinstance(recipe, ExtractorRecipe))


def _unused(search: Search, recipe: GroupRecipe) -> list[str]:
    """Fields whose values would change nothing."""
    extractor = isinstance(recipe, ExtractorRecipe)
    labelled = uses_pseudo_labels(recipe) or {"recipe", "recipe.pseudo_labels"} & search.space.keys()
    used = {"recipe": True, "backend": extractor, "pseudo_labels": bool(labelled)}
    idle = [field for field in search.space if not used[field.partition(".")[0]]]
    return [
        f"space.{field}: group {search.group} does not use it; all its values would give the same" for field in idle
    ]


def check_points(template: Template, points: Sequence[Point], place: Path) -> list[Study]:
    """The studies of some points; ConfigError names every mistake of every one of them."""
    studies, lines = [], []
    for point in points:
        try:
            study = template.study_of(point)
        except ConfigError as error:
            what = ", ".join(f"{field}={as_text(value)}" for field, value in point.items())
            lines += [f"space, at {what}: {line}" for line in told(error)]
        else:
            studies.append(study)
            recipe = study.groups[template.search.group]
            if isinstance(recipe, ExtractorRecipe) and recipe.core_set:
                lines.append("space.recipe.core_set: a core-set is chosen by a whole study, not in a trial")
    if lines:
        raise mistakes(place, _shortened(lines))
    return studies


def told(error: ConfigError) -> list[str]:
    """The mistakes that an error lists, without its headline."""
    head, *lines = str(error).splitlines()
    return [line.strip().removeprefix("- ") for line in lines] or [head]


def _shortened(lines: list[str], most: int = 12) -> list[str]:
    """Each mistake once, although many points may share it."""
    once = {line.partition(": ")[2]: line for line in reversed(lines)}
    kept = list(reversed(once.values()))
    return kept[:most] + ([f"... and {len(kept) - most} more"] if len(kept) > most else [])


def as_overrides(point: Point, group: str, extractor: bool) -> list[str]:
    """A point as overrides of its study. `recipe` means the group here, so nothing that the group sets hides it."""
    out = []
    for key, value in _leaves(point):
        head, _, rest = key.partition(".")
        if head != "recipe":
            out.append(f"{key}={as_text(value)}")
            continue
        if extractor and not any(part.isdigit() for part in rest.split(".")):
            out.append(f"{key}={as_text(value)}")  # other fields may refer to it, as ${recipe.clip_seconds}
        out.append(f"groups.{group}.{rest}={as_text(value)}")
    return out


def _leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def as_text(value: Any) -> str:
    """A value as YAML on one line."""
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("...\n").strip()


def _source(search: Search, place: Path) -> tuple[str, str]:
    if isinstance(search.study, dict):
        return f"{place}: study", yaml.safe_dump(search.study, sort_keys=False)
    path = Path(search.study)
    path = path if path.is_file() or not (place.parent / path).is_file() else place.parent / path
    if not path.is_file():
        load_study(path)  # says which studies there are
    return str(path), path.read_text()


def _load(label: str, text: str, overrides: Sequence[str]) -> Study:
    """`load_study` takes files, and a trial has none."""
    with tempfile.TemporaryDirectory(prefix="asd-search-") as folder:
        path = Path(folder) / FILE
        path.write_text(text)
        try:
            return load_study(path, overrides)
        except ConfigError as error:
            raise ConfigError(str(error).replace(str(path), label)) from error


def _alone(study: Study, search: Search) -> Study:
    """The searched group and its row, where the search keeps its members."""
    rows = [name for name, system in study.systems.items() if system.groups == (search.group,)]
    recipe = study.groups[search.group]
    row = study.systems[rows[0]] if rows else SystemConfig(groups=(search.group,), score=SCORES[recipe.kind][0])
    changes: dict[str, Any] = {
        "name": search.name,
        "storage": search.storage or study.storage,
        "groups": {search.group: recipe},
        "systems": {search.group: row.model_copy(update={"published": {}, "id": ""})},
        "core_set": None,
        "tracking": search.tracking or study.tracking,
    }
    return study.model_copy(update=changes)
