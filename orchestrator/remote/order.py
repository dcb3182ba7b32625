"""What a command means elsewhere: its study files go along, and what it names must be there for all nodes."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from orchestrator.config import Study
from orchestrator.errors import ConfigError
from orchestrator.loading import load_study
from orchestrator.storage import is_local
from orchestrator.tuning.config import read_search
from orchestrator.tuning.template import make_template

SUBMITTED = "submitted"  # folder of the sender's files, in what is sent
OF_A_STUDY = ("run", "plan", "train", "coreset")
JOBS = (*OF_A_STUDY, "tune", "synth", "scan", "evaluate", "compare", "report", "export", "score")
PLACES = ("root", "truth", "storage", "parquet", "audio", "segments", "class_list")  # fields that name places


class Order(NamedTuple):
    """A command as the cluster runs it, and the files that it needs."""

    words: list[str]
    files: dict[str, Path]  # by their path in what is sent
    study: str  # name of the study or search; "" where there is none


def read_order(words: Sequence[str]) -> Order:
    """Check a command as far as that can be done here; ConfigError where the cluster could not run it."""
    if not words or words[0] not in JOBS:
        given = f"{words[0]!r}" if words else "nothing"
        raise ConfigError(f"asd submit -- {given}: a job of a cluster is one of {', '.join(JOBS)}")
    files = {f"{SUBMITTED}/{i}-{Path(w).name}": Path(w) for i, w in enumerate(words) if _is_yaml(w)}
    names = {str(path): name for name, path in files.items()}
    sent = [names.get(str(Path(word)), word) for word in words]
    if words[0] == "tune":
        return _search(words, sent, files)
    if words[0] not in OF_A_STUDY:
        return Order(sent, files, "")
    study = load_study(words[1] if len(words) > 1 else "", _overrides(words))
    _refuse(study, str(words[1]))
    return Order(sent, files, study.name)


def _search(words: Sequence[str], sent: list[str], files: dict[str, Path]) -> Order:
    place = Path(words[1] if len(words) > 1 else "")
    search = read_search(place, _overrides(words))
    template = make_template(search, place)
    _refuse(template.study_of({}), str(place))
    if isinstance(search.study, str):
        name = f"{SUBMITTED}/study-{Path(template.label).name}"
        files[name] = Path(template.label)
        sent = [*(word for word in sent if not word.startswith("study=")), f"study={name}"]
    return Order(sent, files, search.name)


def _overrides(words: Sequence[str]) -> list[str]:
    return [word for word in words[2:] if "=" in word and not word.startswith("-")]


def _is_yaml(word: str) -> bool:
    return word.endswith((".yaml", ".yml")) and Path(word).is_file()


def _refuse(study: Study, place: str) -> None:
    """ConfigError that names every place of a study which is only this machine's."""
    lines = [
        f"{field}: {value!r} is a folder of this machine; a job sees only the code. Give a path that every node sees, "
        f"or a bucket: {field}=s3://..."
        for field, value in _places(study)
        if is_local(value) and not Path(value).is_absolute()
    ]
    if study.tracking.enabled and not study.tracking.uri and not is_local(study.storage):
        lines.append(
            "tracking.uri: MLflow's file would lie in the job's own folder and be lost with it; name a server "
            "(tracking.uri=http://HOST:5000) or a file that outlives it (tracking.uri=sqlite:////shared/mlflow.db), "
            "or set tracking.enabled=false"
        )
    if lines:
        told = "\n".join(f"  - {line}" for line in lines)
        raise ConfigError(f"{place}: {len(lines)} thing(s) that the cluster could not find\n{told}")


def _places(value: Any, field: str = "") -> Iterator[tuple[str, str]]:
    """Every field that names a place, with its value, down through a study."""
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _places(getattr(value, name), f"{field}.{name}".lstrip("."))
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _places(item, f"{field}.{name}")
    elif isinstance(value, tuple):
        for i, item in enumerate(value):
            yield from _places(item, field if isinstance(item, str) else f"{field}.{i}")
    elif isinstance(value, str) and field.rpartition(".")[2] in PLACES:
        yield field, value
