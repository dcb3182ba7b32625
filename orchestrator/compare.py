"""Rows of finished studies side by side, as in the report's Table 1, and whether one truly beats another."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.table import Table
from rich.text import Text

from models.bootstrap import BootstrapResult, paired_bootstrap
from models.metrics import official_score
from orchestrator.config import Study
from orchestrator.data.clips import by_place, machines_without_attributes
from orchestrator.errors import DataError
from orchestrator.evaluation import evaluate_scores
from orchestrator.loading import read_study
from orchestrator.plan import CLIPS
from orchestrator.results import TEST_SCORES
from orchestrator.storage import Store

ROUNDS = 1000


class Row(NamedTuple):
    """One system of one study: figures in percent, and the test clips that they come from."""

    study: str
    name: str
    title: str
    id: str
    machines: dict[str, float]  # harmonic mean of AUC source, AUC target and pAUC
    official: float
    seeds: list[float]  # each seed's own official score
    published: dict[str, float]
    test: pa.Table  # labelled test clips with score

    @property
    def label(self) -> str:
        return f"{self.id} {self.title}".strip()

    def spread(self) -> str:
        """Mean and standard deviation over seeds."""
        if len(self.seeds) < 2:
            return ""
        return f"{np.mean(self.seeds):.2f} ± {np.std(self.seeds, ddof=1):.2f}"


class Comparison(NamedTuple):
    """All rows, the machines that lack attributes, and each row against one of them."""

    rows: list[Row]
    unlabelled: frozenset[str]
    against: str | None
    bootstraps: dict[int, BootstrapResult]  # by position of the row

    @property
    def several(self) -> bool:
        """Whether the rows come from several studies, so that each must say from which."""
        return len({row.study for row in self.rows}) > 1

    @property
    def machines(self) -> list[str]:
        return sorted({machine for row in self.rows for machine in row.machines})


def compare(
    folders: Sequence[str | Path], against: str | None = None, rounds: int = ROUNDS, seed: int = 0
) -> Comparison:
    """Read the rows of finished studies; `against` names the row that all others are tested against.

    DataError: a folder is no finished study, has no labelled test clip, or the row does not exist; rows of studies with
    other test clips cannot be paired.
    """
    rows, unlabelled = [], set()
    for folder in folders:
        store = Store.at(folder)
        study = read_study(store)
        unlabelled |= set(machines_without_attributes(store.read_table(CLIPS)))
        rows += [_row(study, name, folder) for name in study.systems]
    bootstraps = {}
    if against is not None:
        base = _named(rows, against)
        bootstraps = {i: _paired(base, row, rounds, seed) for i, row in enumerate(rows) if row is not base}
    return Comparison(rows, frozenset(unlabelled), against, bootstraps)


def _row(study: Study, name: str, folder: str | Path) -> Row:
    store = Store.at(folder).child("systems", name)
    if not store.exists(TEST_SCORES):
        raise DataError(f"{folder}: row {name} has no results yet; run `asd run` on the study to its end")
    table = store.read_table(TEST_SCORES)
    test = table.filter(pc.and_(table["is_anomaly"].is_valid(), table["is_target"].is_valid()))
    result = evaluate_scores(test)
    if result.official_score is None:
        raise DataError(
            f"{folder}: no machine has normal and anomalous test clips; give their truth by data.truth=FILE"
        )
    system = study.systems[name]
    seeds = [column for column in test.column_names if column.startswith("seed_")]
    machines = sorted({machine for machine, _ in result.sections})
    hmean = {m: official_score([f for (of, _), f in result.sections.items() if of == m]) for m in machines}
    return Row(
        study=study.name,
        name=name,
        title=system.title or name,
        id=system.id,
        machines={machine: 100 * value for machine, value in hmean.items() if value is not None},
        official=100 * result.official_score,
        seeds=[_official(test.set_column(test.column_names.index("score"), "score", test[seed])) for seed in seeds],
        published=dict(system.published),
        test=test,
    )


def _official(test: pa.Table) -> float:
    score = evaluate_scores(test).official_score
    assert score is not None  # the same clips have one for the whole system
    return 100 * score


def _named(rows: Sequence[Row], name: str) -> Row:
    found = [row for row in rows if name in (row.name, f"{row.study}/{row.name}")]
    if not found:
        raise DataError(f"--against {name}: no such row; there are {', '.join(f'{r.study}/{r.name}' for r in rows)}")
    return found[0]


def _paired(base: Row, row: Row, rounds: int, seed: int) -> BootstrapResult:
    keys = ["machine", "section", "file_name"]
    a, b = (r.test.sort_by([(key, "ascending") for key in keys]) for r in (base, row))
    if a.select(keys) != b.select(keys):
        raise DataError(f"{base.study}/{base.name} and {row.study}/{row.name} have other test clips: nothing to pair")
    flag = {name: a[name].to_numpy(zero_copy_only=False).astype(bool) for name in ("is_anomaly", "is_target")}
    place = np.empty(len(a), np.int64)
    for code, rows in enumerate(by_place(a).values()):
        place[rows] = code
    return paired_bootstrap(
        a["score"].to_numpy(),
        b["score"].to_numpy(),
        flag["is_anomaly"],
        flag["is_target"],
        place,
        rounds=rounds,
        seed=seed,
    )


def header(comparison: Comparison) -> list[str]:
    """Column names; machines without attributes carry a star, as in the report."""
    stars = [f"{m}*" if m in comparison.unlabelled else m for m in comparison.machines]
    names = [*(["study"] if comparison.several else []), "id", "row", *stars, "official", "seeds mean ± std"]
    names += ["published"] if any(row.published for row in comparison.rows) else []
    return names + (["difference (95 %)", "p"] if comparison.bootstraps else [])


def cells(comparison: Comparison) -> list[list[str]]:
    """The rows as text, percent; published machine figures follow in brackets."""
    lines = []
    for i, row in enumerate(comparison.rows):
        machines = [_beside(row.machines.get(m), row.published.get(m)) for m in comparison.machines]
        line = [*([row.study] if comparison.several else []), row.id, row.title, *machines]
        line += [f"{row.official:.2f}", row.spread()]
        if any(r.published for r in comparison.rows):
            line.append(f"{row.published['official']:.2f}" if "official" in row.published else "")
        if comparison.bootstraps:
            line += _tested(comparison.bootstraps.get(i))
        lines.append(line)
    return lines


def _beside(ours: float | None, published: float | None) -> str:
    return ("" if ours is None else f"{ours:.2f}") + ("" if published is None else f" ({published:.2f})")


def _tested(found: BootstrapResult | None) -> list[str]:
    if found is None:
        return ["", ""]
    difference, low, high = (100 * value for value in (found.difference, found.low, found.high))
    return [f"{difference:+.2f} ({low:+.2f} to {high:+.2f})", f"{found.p_value:.3f}"]


def best_cells(comparison: Comparison) -> set[tuple[int, int]]:
    """(row, column) of the best figure of each machine and of the official score."""
    figures = [[row.machines.get(m) for m in comparison.machines] + [row.official] for row in comparison.rows]
    best = set()
    for column, values in enumerate(zip(*figures, strict=True)):
        top = max((value for value in values if value is not None), default=None)
        best |= {
            (i, 2 + comparison.several + column) for i, value in enumerate(values) if value is not None and value == top
        }
    return best


def as_markdown(comparison: Comparison) -> str:
    """The table for a paper or an issue, the best of a column in bold."""
    best, names = best_cells(comparison), header(comparison)
    lines = ["| " + " | ".join(names) + " |", "|" + " --- |" * len(names)]
    for i, line in enumerate(cells(comparison)):
        bold = [f"**{cell}**" if (i, j) in best else cell for j, cell in enumerate(line)]
        lines.append("| " + " | ".join(bold) + " |")
    return "\n".join([*lines, "", *notes(comparison), ""])


def as_columns(comparison: Comparison) -> dict[str, list[str]]:
    """The table column by column."""
    return dict(zip(header(comparison), map(list, zip(*cells(comparison), strict=True)), strict=True))


def as_csv(comparison: Comparison) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header(comparison), *cells(comparison)])
    return text.getvalue()


def as_table(comparison: Comparison) -> Table:
    """The table for a terminal."""
    best, table = best_cells(comparison), Table()
    for j, name in enumerate(header(comparison)):
        table.add_column(name, justify="left" if j < 2 + comparison.several else "right")
    for i, line in enumerate(cells(comparison)):
        table.add_row(*(Text(cell, style="bold" if (i, j) in best else "") for j, cell in enumerate(line)))
    return table


def notes(comparison: Comparison) -> list[str]:
    """What a reader must know to read the table."""
    told = ["Percent. A machine's column is the harmonic mean of its source AUC, target AUC and pAUC (p = 0.1)."]
    if comparison.unlabelled:
        told.append("* no attributes were released for this machine.")
    if any(set(row.published) - {"official"} for row in comparison.rows):
        told.append("In brackets: the report's Table 1.")
    if comparison.against is not None:
        told.append(
            f"Difference: official score minus that of {comparison.against}, with the 95 % interval and two-sided p of "
            "a paired bootstrap over test clips."
        )
    return told
