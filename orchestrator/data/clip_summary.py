"""A clip table in figures, a row a machine: what a person looks at before training."""

from collections import Counter
from typing import NamedTuple

import pyarrow as pa

from orchestrator.data.audio import SAMPLE_RATE
from orchestrator.data.clips import Row
from orchestrator.data.dcase import NO_ATTRIBUTE


class MachineSummary(NamedTuple):
    """One machine in figures; `test` maps a domain to its numbers of (normal, anomaly, unknown) clips."""

    machine: str
    train_source: int
    train_target: int
    test: dict[str, tuple[int, int, int]]
    attributes: str  # how many distinct ones in training, or "none"
    seconds: tuple[float, float]  # shortest and longest clip
    bad: int
    notes: tuple[str, ...]


def summary(clips: pa.Table) -> list[MachineSummary]:
    """Count what there is, a row a machine in alphabetical order; bad clips are only counted as such."""
    rows = clips.to_pylist()
    machines = sorted({row["machine"] for row in rows})
    return [_summarise(machine, [row for row in rows if row["machine"] == machine]) for machine in machines]


def _summarise(machine: str, rows: list[Row]) -> MachineSummary:
    good = [row for row in rows if not row["problem"]]
    train = [row for row in good if row["split"] == "train"]
    domains = Counter(row["domain"] for row in train)
    tests = Counter((row["domain"], row["label"]) for row in good if row["split"] == "test")
    attributes = {row["attribute"] for row in train} - {NO_ATTRIBUTE}
    seconds = [row["samples"] / SAMPLE_RATE for row in good] or [0.0]
    return MachineSummary(
        machine,
        train_source=domains["source"],
        train_target=domains["target"],
        test={d: (tests[d, "normal"], tests[d, "anomaly"], tests[d, "unknown"]) for d in sorted({d for d, _ in tests})},
        attributes=str(len(attributes)) if attributes else "none",
        seconds=(min(seconds), max(seconds)),
        bad=len(rows) - len(good),
        notes=_notes(good),
    )


def _notes(rows: list[Row]) -> tuple[str, ...]:
    rates = {f"resampled from {row['sample_rate']} Hz" for row in rows if row["sample_rate"] != SAMPLE_RATE}
    channels = {f"{row['channels']} channels, the first is used" for row in rows if row["channels"] != 1}
    sections = len({row["section"] for row in rows})
    return (*sorted(rates), *sorted(channels), *([f"{sections} sections"] if sections > 1 else []))
