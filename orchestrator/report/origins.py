"""Where the figures of a page come from: the configuration, the data, the program and the times."""

from datetime import datetime
from typing import NamedTuple

import pyarrow.compute as pc

from orchestrator.data.audio import SAMPLE_RATE
from orchestrator.data.clips import fingerprint
from orchestrator.display import duration
from orchestrator.loading import STUDY, study_yaml
from orchestrator.provenance import PROVENANCE, program
from orchestrator.report.contents import RESULTS, Contents
from orchestrator.report.training_curves import Group
from orchestrator.storage import Store


class Origins(NamedTuple):
    """Configuration as YAML, and facts as (name, value)."""

    yaml: str
    data: list[tuple[str, str]]
    times: list[tuple[str, str]]
    program: list[tuple[str, str]]


def origins(contents: Contents, groups: list[Group], now: datetime) -> Origins:
    """What the study folder and this program say about themselves."""
    return Origins(study_yaml(contents.study), _data(contents), _times(contents, groups, now), _program(contents.store))


def _data(contents: Contents) -> list[tuple[str, str]]:
    clips = contents.clips
    if not len(clips):
        return [("folders", ", ".join(contents.study.data.root))]
    train = clips.filter(pc.equal(clips["split"], "train"))
    hours = pc.sum(clips["samples"]).as_py() / SAMPLE_RATE / 3600
    return [
        ("folders", ", ".join(contents.study.data.root)),
        ("clips", f"{len(train)} of training, {len(clips) - len(train)} of test, {hours:.2f} hours"),
        ("fingerprint of the data", fingerprint(clips)),
        ("fingerprint of the training data", fingerprint(train)),
    ]


def _times(contents: Contents, groups: list[Group], now: datetime) -> list[tuple[str, str]]:
    seconds = sum(group.seconds for group in groups)
    return [
        ("the last run began", _written(contents.store, STUDY)),
        ("results written", _written(contents.store, RESULTS)),
        ("training, all members together", duration(seconds) if seconds else "none kept"),
        ("this page", f"{now.astimezone():%Y-%m-%d %H:%M %Z}"),
    ]


def _written(store: Store, name: str) -> str:
    when = store.files.get_file_info(store.path(name)).mtime
    return f"{when.astimezone():%Y-%m-%d %H:%M %Z}" if when is not None else "not yet"


def _program(store: Store) -> list[tuple[str, str]]:
    """What the last run was made by, as it noted itself; older results have only this page's program."""
    if store.exists(PROVENANCE):
        return list(store.read_json(PROVENANCE).items())
    return [("not kept with these results; this page", ""), *program().items()]
