"""What a search leaves behind: a table of its trials, the best one as a study, and what mattered."""

import csv
import io
from typing import Any, NamedTuple

from rich.table import Table
from scipy.stats import spearmanr

from orchestrator.loading import study_yaml
from orchestrator.storage import Store
from orchestrator.tuning.figures import Figures
from orchestrator.tuning.ledger import Trial, best
from orchestrator.tuning.proposals import importance
from orchestrator.tuning.template import Template, as_overrides, as_text

TRIALS, BEST, IMPORTANCE = "trials.csv", "best.yaml", "importance.csv"
FEWEST_TO_COMPARE = 4  # trials with both figures, for their rank correlation


class SearchOutcome(NamedTuple):
    """A search as far as it has come."""

    template: Template
    store: Store
    trials: list[Trial]
    tracking_page: str

    @property
    def best(self) -> Trial | None:
        return best(self.trials, self.template.search.metric)

    @property
    def agreement(self) -> float | None:
        """Spearman's rank correlation of label-free figure and official score over finished trials."""
        pairs = [
            t.figures for t in self.trials if t.state == "finished" and {"official", "label_free"} <= t.figures.keys()
        ]
        official, label_free = ([figures[name] for figures in pairs] for name in ("official", "label_free"))
        if len(pairs) < FEWEST_TO_COMPARE or len(set(official)) < 2 or len(set(label_free)) < 2:
            return None
        return float(spearmanr(official, label_free).statistic)

    @property
    def importance(self) -> dict[str, float]:
        search = self.template.search
        return importance(self.trials, search.space, search.metric)


def write_outcome(outcome: SearchOutcome) -> None:
    """Write trials.csv, and best.yaml and importance.csv where there is something to say."""
    store = outcome.store
    store.write(TRIALS, _csv(trial_rows(outcome)))
    if outcome.best is not None:
        store.write(BEST, best_yaml(outcome).encode())
    if weights := outcome.importance:
        store.write(IMPORTANCE, _csv([["field", "importance"], *([f, f"{w:.4f}"] for f, w in weights.items())]))


def trial_rows(outcome: SearchOutcome) -> list[list[str]]:
    """The header and a row a trial, best first and unfinished ones last; figures in percent."""
    search = outcome.template.search
    figures, fields = list(Figures._fields), list(search.space)
    rows = [["trial", "state", "epochs", *figures, "seconds", *fields, "problem"]]
    for trial in ranked(outcome):
        known = [_percent(trial.figures.get(name)) for name in figures]
        values = [as_text(trial.point[field]) for field in fields]
        problem = " ".join(trial.error.split())
        head = [str(trial.number), trial.state, str(trial.epoch)]
        rows.append([*head, *known, f"{trial.seconds:.1f}", *values, problem])
    return rows


def ranked(outcome: SearchOutcome) -> list[Trial]:
    """Finished trials by the metric, then the others by how far they came."""
    metric = outcome.template.search.metric
    return sorted(
        outcome.trials,
        key=lambda t: (t.state != "finished", -t.epoch if t.state != "finished" else 0, -t.figures.get(metric, -1.0)),
    )


def best_yaml(outcome: SearchOutcome) -> str:
    """The best trial as a study that `asd run` takes; its members are there already."""
    trial, template = outcome.best, outcome.template
    assert trial is not None
    search = template.search
    study = template.study_of(trial.point)
    finished = sum(t.state == "finished" for t in outcome.trials)
    values = [f"#   {field} = {as_text(value)}" for field, value in trial.point.items()]
    header = [
        f"# The best of {finished} finished trials of the search {search.name}: trial {trial.number}, "
        f"{search.metric} {_percent(trial.figures[search.metric])} %",
        *values,
        f"# from        {template.label}, group {search.group}",
        "# cost        scoring only: its members are trained, in the same folder",
        f"# command     asd run {outcome.store.uri}/{BEST}",
        f"# in a study of more groups: asd run {' '.join(whole_study(outcome))}",
    ]
    return "\n".join(header) + "\n" + study_yaml(study)


def whole_study(outcome: SearchOutcome) -> list[str]:
    """The study that was searched and the best point as overrides of it, which change the searched group alone."""
    trial, template = outcome.best, outcome.template
    assert trial is not None
    own = template.label if isinstance(template.search.study, str) else "STUDY"
    point = as_overrides(trial.point, template.search.group, template.extractor)
    return [own, *template.overrides, *(override for override in point if not override.startswith("recipe."))]


def outcome_table(outcome: SearchOutcome, most: int = 10) -> Table:
    """The best trials for a terminal."""
    search = outcome.template.search
    header, *rows = trial_rows(outcome)
    shown = [i for i, name in enumerate(header) if name == "trial" or any(row[i] for row in rows)]
    table = Table(title=f"{search.name}: trials by {search.metric}, percent")
    for i in shown:
        table.add_column(header[i], justify="left" if i == 1 else "right", overflow="fold")
    for row in rows[:most]:
        table.add_row(*(row[i] for i in shown))
    return table


def _percent(figure: float | None) -> str:
    return "" if figure is None else f"{100 * figure:.2f}"


def _csv(rows: list[list[Any]]) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue().encode()
