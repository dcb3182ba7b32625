"""What the two stages before the last members left behind: pseudo-labels, and the core-set of external clips."""

import csv
import io
from collections import Counter
from typing import NamedTuple

from orchestrator.config import ExternalSource, uses_core_set, uses_pseudo_labels
from orchestrator.coreset import PROBLEMS, SUMMARY, read_core_set
from orchestrator.plan import Plan
from orchestrator.pseudo_labels import AGREEMENT, TABLE
from orchestrator.report.contents import Contents
from orchestrator.report.sounds import data_uri
from orchestrator.storage import Store

PICTURE_BYTES = 1_500_000  # of all pseudo-label pictures together
FIGURES = ("clips", "clusters", "label_sets", "ari", "nmi")
LISTED = 12  # problems shown by name


class Labelling(NamedTuple):
    """How one machine and section was labelled."""

    place: str
    figures: list[str]  # as in FIGURES; agreement is empty where no truth is known
    sizes: list[tuple[str, int]]  # label set -> clips, the largest first
    picture: str  # data: URI, empty where it is not there or too large


class PseudoLabels(NamedTuple):
    """All labellings, or the sentence why there are none."""

    note: str
    labellings: list[Labelling]
    settings: list[tuple[str, str]]


class Kept(NamedTuple):
    """What one machine got from the external audio."""

    machine: str
    limit: str
    clips: int
    classes: list[tuple[str, int]]


class CoreSetView(NamedTuple):
    """The choice of external clips in figures, or the sentence why there is none."""

    note: str
    sources: list[str]
    figures: list[tuple[str, int]]
    kept: list[Kept]
    problems: list[tuple[str, int]]
    examples: list[list[str]]  # shard, row, video id, reason
    settings: list[tuple[str, str]]


def pseudo_labels(contents: Contents) -> PseudoLabels:
    """The labellings that the study's members learn from."""
    study, plan = contents.study, contents.plan
    config = study.pseudo_labels
    settings = [(name, f"{getattr(config, name)}") for name in ("method", "clusters", "threshold", "domains")]
    if not any(map(uses_pseudo_labels, study.groups.values())):
        return PseudoLabels("No group of this study uses pseudo-labels.", [], [])
    if plan is None or not plan.encoders:
        return PseudoLabels("All machines have attributes: nothing had to be labelled.", [], settings)
    folder = plan.pseudo_labels_folder()
    if not folder.exists(TABLE):
        return PseudoLabels("The pseudo-labels have not been made yet.", [], settings)
    return PseudoLabels("", _labellings(folder), settings)


def _labellings(folder: Store) -> list[Labelling]:
    sets: dict[str, Counter[str]] = {}
    for row in folder.read_table(TABLE).to_pylist():
        place = f"{row['machine']}_section_{row['section']}"
        sets.setdefault(place, Counter())["+".join(map(str, row["labels"]))] += 1
    found, room = [], PICTURE_BYTES
    for row in csv.DictReader(io.StringIO(folder.read(AGREEMENT).decode())):
        place = row["machine_section"]
        picture = data_uri("image/png", folder.read(f"{place}.png")) if folder.exists(f"{place}.png") else ""
        picture = picture if len(picture) <= room else ""
        room -= len(picture)
        figures = [row[name] for name in FIGURES]
        found.append(Labelling(place.replace("_", " "), figures, sets.get(place, Counter()).most_common(), picture))
    return found


def core_set(contents: Contents) -> CoreSetView:
    """The core-set that the study's last members learn from."""
    config, note = contents.study.core_set, ""
    if config is None or not any(map(uses_core_set, contents.study.groups.values())):
        return CoreSetView("No group of this study uses external audio.", [], [], [], [], [], [])
    sources = [_source(source) for source in config.sources]
    names = ("group", "epoch", "percentile", "most", "per", "min_seconds")
    settings = [(name, f"{'last' if (value := getattr(config, name)) is None else value}") for name in names]
    folder, note = _folder(contents.store, contents.plan)
    found = read_core_set(folder) if folder else None
    if folder is None or found is None:
        return CoreSetView(note or "The external clips have not been chosen yet.", sources, [], [], [], [], settings)
    summary = found.summary
    figures = [
        *[(name, summary["candidates"][name]) for name in ("seen", "listed", "scored", "problems")],
        ("kept", summary["kept"]),
    ]
    limits = summary["threshold"]
    kept = [
        Kept(
            machine,
            f"{limits.get(machine, next(iter(limits.values()), float('nan'))):.3g}",
            sum(of.values()),
            _ranked(of),
        )
        for machine, of in sorted(summary["chosen"].items())
    ]
    examples = list(csv.reader(io.StringIO(folder.read(PROBLEMS).decode())))[1 : 1 + LISTED]
    if not summary["kept"]:
        note = f"{note} No external clip was accepted: groups with a core-set are the groups without.".strip()
    return CoreSetView(note, sources, figures, kept, _ranked(summary["problems"]), examples, settings)


def _folder(store: Store, plan: Plan | None) -> tuple[Store | None, str]:
    """The study's core-set; where the external audio is gone, the only one that the study ever made."""
    if plan is not None and plan.core_set_folder is not None:
        return plan.core_set_folder, ""
    made = [name for name in sorted(store.child("core_set").names()) if store.child("core_set", name).exists(SUMMARY)]
    if len(made) == 1:
        return store.child(
            "core_set", made[0]
        ), "It is the one that this study made; whether it is up to date is not known."
    return None, f"This study made {len(made)} choices; which one is current is not known." if made else ""


def _ranked(counts: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _source(source: ExternalSource) -> str:
    return ", ".join(source.parquet) or f"{source.audio} with {source.segments}"
