"""The page's view of a study's rows: Table 1, the spread over seeds, each machine's charts, and what members add."""

from typing import NamedTuple

from markupsafe import Markup

from models.metrics import SectionFigures, official_score
from orchestrator.compare import Comparison, Row, best_cells, notes
from orchestrator.data.clips import by_place
from orchestrator.errors import UserError
from orchestrator.report.contents import Contents, SystemRow, known_rows
from orchestrator.report.ensembles import Share, Voice, correlation, score_matrix_of, shares, voices_of
from orchestrator.report.member_charts import likeness_map, spread_axis, spread_scale, spread_track
from orchestrator.report.score_charts import histogram, roc
from orchestrator.report.svg import short

FIGURES = {"auc_source": "AUC source", "auc_target": "AUC target", "pauc": "pAUC", "hmean": "harmonic mean"}


class Cell(NamedTuple):
    """A figure in percent, the published one beside it (both perhaps empty), and whether it is its column's best."""

    text: str
    published: str
    best: bool


class TableRow(NamedTuple):
    """A row of Table 1, with its seeds as a drawing."""

    id: str
    title: str
    cells: list[Cell]  # machines, then the official score
    spread: str
    track: Markup


class Table(NamedTuple):
    """Table 1 of the rows whose truth is known."""

    machines: list[tuple[str, bool]]  # name, and whether it lacks attributes
    rows: list[TableRow]
    published: bool
    axis: Markup
    notes: list[str]


class Card(NamedTuple):
    """One machine (and section) under one row."""

    place: str
    unlabelled: bool
    clips: int
    figures: list[tuple[str, str]]
    histogram: Markup
    roc: Markup | None


class RowView(NamedTuple):
    """One row in detail; `no_members` says why members are not shown."""

    label: str
    official: str
    best: bool
    cards: list[Card]
    voices: list[tuple[Voice, Share, str]]  # the last: what it adds, in points
    groups: list[tuple[Share, str]]
    likeness: Markup | None
    no_members: str


def comparison(contents: Contents) -> Comparison:
    """The study's rows as `asd compare` has them: those that are there, and whose truth is known."""
    rows = [_compared(contents, row) for row in contents.rows if row.official is not None]
    return Comparison(rows, contents.unlabelled, None, {})


def _compared(contents: Contents, row: SystemRow) -> Row:
    assert row.result is not None
    assert row.official is not None
    of_machine: dict[str, list[SectionFigures]] = {}
    for (machine, _), figures in row.result.sections.items():
        of_machine.setdefault(machine, []).append(figures)
    means = {machine: official_score(sections) for machine, sections in of_machine.items()}
    return Row(
        study=contents.study.name,
        name=row.name,
        title=row.title,
        id=row.id,
        machines={machine: 100 * value for machine, value in means.items() if value is not None},
        official=100 * row.official,
        seeds=[100 * value for value in row.seeds.values()],
        published=row.published,
        test=known_rows(row.test),
    )


def table(contents: Contents) -> Table:
    """Table 1 with the best of each column marked, the published figures beside, and the seeds on one scale."""
    found = comparison(contents)
    published = [row.published["official"] for row in found.rows if "official" in row.published]
    figures = [value for row in found.rows for value in (row.official, *row.seeds)]
    x, best = spread_scale([*figures, *published]), best_cells(found)
    rows = []
    for i, row in enumerate(found.rows):
        ours = [*(row.machines.get(machine) for machine in found.machines), row.official]
        told = [*(row.published.get(machine) for machine in found.machines), row.published.get("official")]
        cells = [Cell(_two(a), _two(b), (i, 2 + j) in best) for j, (a, b) in enumerate(zip(ours, told, strict=True))]
        seeds = dict(zip(_seeds(contents, row.name), row.seeds, strict=True))
        track = spread_track(x, row.official, seeds, row.published.get("official"), row.label)
        rows.append(TableRow(row.id, row.title, cells, row.spread(), track))
    machines = [(machine, machine in found.unlabelled) for machine in found.machines]
    return Table(machines, rows, any(row.published for row in found.rows), spread_axis(x), notes(found))


def _seeds(contents: Contents, name: str) -> list[int]:
    return next(list(row.seeds) for row in contents.rows if row.name == name)


def _two(percent: float | None) -> str:
    return "" if percent is None else f"{percent:.2f}"


def row_views(contents: Contents) -> list[RowView]:
    """Every row in detail, in the study's order."""
    return [_row_view(contents, row) for row in contents.rows]


def _row_view(contents: Contents, row: SystemRow) -> RowView:
    official = "" if row.official is None else f"{100 * row.official:.2f}"
    cards = [_card(contents, row, place) for place in by_place(row.test)]
    view = RowView(row.label, official, row is contents.best, cards, [], [], None, "")
    try:
        voices = voices_of(contents, row)
    except UserError as error:
        return view._replace(no_members=f"{error}")
    return _with_members(view, row, voices)


def _with_members(view: RowView, row: SystemRow, voices: list[Voice]) -> RowView:
    found = shares(voices, row.test, [voice.title for voice in voices])
    told = [(voice, share, _points(share.adds(row.official))) for voice, share in zip(voices, found, strict=True)]
    if len(voices) < 2:
        return view._replace(voices=told, no_members="The row is one member alone.")
    names = [voice.group for voice in voices]
    groups = shares(voices, row.test, names) if len(set(names)) > 1 else []
    alike_VV = correlation(score_matrix_of(voices), row.test)
    label = f"{row.label}: rank correlation of {len(voices)} members"
    return view._replace(
        voices=told,
        groups=[(share, _points(share.adds(row.official))) for share in groups],
        likeness=likeness_map(alike_VV, names, label),
    )


def _points(difference: float | None) -> str:
    return "" if difference is None else f"{100 * difference:+.2f}".replace("-", "−")


def _card(contents: Contents, row: SystemRow, place: tuple[str, str]) -> Card:
    name, test = contents.place(place), row.test.take(by_place(row.test)[place])
    threshold = row.thresholds.get(name)
    figures = row.result.sections.get(place) if row.result else None
    told = [
        (title, f"{100 * v:.1f}") for key, title in FIGURES.items() if (v := getattr(figures, key, None)) is not None
    ]
    spoken = ", ".join(f"{title} {value}" for title, value in told)
    told += [
        (f"F1 {side}", f"{100 * d.f1:.1f}") for side in ("source", "target") if (d := getattr(figures, side, None))
    ]
    told += [("threshold", short(threshold))] if threshold is not None else []
    return Card(
        name,
        place[0] in contents.unlabelled,
        len(test),
        told,
        histogram(test, threshold, name),
        roc(test, name, spoken),
    )
