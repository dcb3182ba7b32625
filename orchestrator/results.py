"""From members' scores to the rows of a study: official figures, seed spread, decisions and the challenge's files."""

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

from models.threshold import gamma_threshold
from orchestrator.config import Study
from orchestrator.data.clips import by_place
from orchestrator.ensemble import RULES, score_matrix
from orchestrator.evaluation import OfficialResult, evaluate_scores, official_csv
from orchestrator.members import Member
from orchestrator.storage import Store
from orchestrator.submission import write_challenge_files

TEST_SCORES = "test_scores.parquet"


class PlaceResult(NamedTuple):
    """One machine (and section): its figures, and the score from which a clip is called anomalous."""

    name: str
    figures: dict[str, float | None]  # auc_source, auc_target, pauc, hmean
    threshold: float


class SystemResult(NamedTuple):
    """A row of the results; figures are None where no test clip has a known truth."""

    name: str
    title: str
    id: str
    published: dict[str, float]  # percent: "official" and machines
    scores: int  # members x checkpoints averaged
    official: float | None
    seed_scores: list[float]  # official score of each seed alone
    rules: dict[str, float | None]  # the other ensemble rules
    places: list[PlaceResult]
    result: OfficialResult | None
    challenge: pa.Table  # rows of the challenge's files, a row a test clip
    seed_test_scores: dict[int, NDArray[np.float64]]  # each seed's mean score of the rows of `challenge`

    @property
    def seed_mean(self) -> float | None:
        return float(np.mean(self.seed_scores)) if self.seed_scores else None

    @property
    def seed_std(self) -> float | None:
        return float(np.std(self.seed_scores, ddof=1)) if len(self.seed_scores) > 1 else None


class Results(NamedTuple):
    """All rows of a study and the scores that they are made of."""

    systems: list[SystemResult]
    scores: pa.Table


def make_results(study: Study, clips: pa.Table, groups: Mapping[str, Sequence[Member]], scores: pa.Table) -> Results:
    """Form every system of the study from the scores table."""
    return Results([_system(study, name, clips, groups, scores) for name in study.systems], scores)


def _system(
    study: Study, name: str, clips: pa.Table, groups: Mapping[str, Sequence[Member]], scores: pa.Table
) -> SystemResult:
    system, output = study.systems[name], study.score_of(name)
    members = [member for group in system.groups for member in groups[group]]
    seeds = sorted({member.seed for member in members})
    matrix_KN = score_matrix(scores, members, clips, output)
    score_N = RULES["mean"](matrix_KN, clips)
    thresholds = _thresholds(score_N, clips, study.ensemble.percentile)
    challenge = _challenge_rows(score_N, thresholds, clips)
    result = _evaluate(challenge)
    per_seed = {seed: score_matrix(scores, members, clips, output, seed).mean(axis=0) for seed in seeds}
    seed_results = [_evaluate(_challenge_rows(seed_N, thresholds, clips)) for seed_N in per_seed.values()]
    rules: dict[str, float | None] = {
        rule: _official(_evaluate(_challenge_rows(RULES[rule](matrix_KN, clips), thresholds, clips)))
        for rule in study.ensemble.also
    }
    return SystemResult(
        name=name,
        title=system.title or name,
        id=system.id,
        published=system.published,
        scores=len(matrix_KN),
        official=_official(result),
        seed_scores=[r.official_score for r in seed_results if r is not None and r.official_score is not None],
        rules=rules,
        places=[PlaceResult(name, _figures(result, p), thresholds[p]) for p, name in _names(clips).items()],
        result=result,
        challenge=challenge,
        seed_test_scores={seed: score_N[_test_rows(clips)] for seed, score_N in per_seed.items()},
    )


def member_figures(member: Member, clips: pa.Table, scores: pa.Table, output: str) -> dict[str, float]:
    """What one member reaches alone, its checkpoints averaged: `official` and each machine's figures, where known."""
    score_N = score_matrix(scores, [member], clips, output).mean(axis=0)
    names = _names(clips)
    result = _evaluate(_challenge_rows(score_N, dict.fromkeys(names, 0.0), clips))
    figures = {f"{name}/{kind}": value for p, name in names.items() for kind, value in _figures(result, p).items()}
    return {name: value for name, value in {"official": _official(result), **figures}.items() if value is not None}


def _thresholds(score_N: NDArray[np.float64], clips: pa.Table, percentile: float) -> dict[tuple[str, str], float]:
    """Per machine and section, from source training clips: a target one is its own reference, at 0 (spec §12)."""
    split, domain = (clips[name].to_numpy(zero_copy_only=False) for name in ("split", "domain"))
    known = (split == "train") & (domain != "target")
    out = {}
    for place, rows in by_place(clips).items():
        reference = score_N[rows][known[rows]] if known[rows].any() else score_N[rows][split[rows] == "train"]
        out[place] = gamma_threshold(reference, percentile).value
    return out


def _challenge_rows(
    score_N: NDArray[np.float64], thresholds: dict[tuple[str, str], float], clips: pa.Table
) -> pa.Table:
    """The test clips with score and decision; is_anomaly and is_target are null where the truth is not known."""
    test = _test_rows(clips)
    rows = clips.take(test)
    places = zip(rows["machine"].to_pylist(), rows["section"].to_pylist(), strict=True)
    limit = np.array([thresholds[place] for place in places])
    truth = {"anomaly": True, "normal": False, "target": True, "source": False}
    return pa.table(
        {
            "machine": rows["machine"],
            "section": rows["section"],
            "file_name": rows["file_name"],
            "score": score_N[test],
            "decision": (score_N[test] > limit).astype(np.int64),
            "is_anomaly": pa.array([truth.get(label) for label in rows["label"].to_pylist()], pa.bool_()),
            "is_target": pa.array([truth.get(domain) for domain in rows["domain"].to_pylist()], pa.bool_()),
        }
    )


def _test_rows(clips: pa.Table) -> NDArray[np.int64]:
    return np.flatnonzero(clips["split"].to_numpy(zero_copy_only=False) == "test")


def _evaluate(challenge: pa.Table) -> OfficialResult | None:
    known = pc.and_(pc.is_valid(challenge["is_anomaly"]), pc.is_valid(challenge["is_target"]))
    labelled = challenge.filter(known)
    return evaluate_scores(labelled) if len(labelled) else None


def _official(result: OfficialResult | None) -> float | None:
    return result.official_score if result else None


def _names(clips: pa.Table) -> dict[tuple[str, str], str]:
    """What each place is called: the machine, with its section where it has several."""
    places = list(by_place(clips))
    sections = Counter(machine for machine, _ in places)
    return {place: " ".join(place) if sections[place[0]] > 1 else place[0] for place in places}


def _figures(result: OfficialResult | None, place: tuple[str, str]) -> dict[str, float | None]:
    figures = result.sections.get(place) if result else None
    names = ("auc_source", "auc_target", "pauc", "hmean")
    return {name: getattr(figures, name) if figures else None for name in names}


def write_results(results: Results, clips: pa.Table, store: Store) -> None:
    """Write the scores, each system's challenge files and official result, and the table as CSV and Markdown."""
    store.write_table("scores.parquet", results.scores)
    for system in results.systems:
        folder = store.child("systems", system.name)
        write_challenge_files(system.challenge, folder)
        folder.write_table(TEST_SCORES, _test_scores(system))
        folder.write(
            "thresholds.csv", _csv([("machine", "threshold"), *((p.name, p.threshold) for p in system.places)])
        )
        if system.result is not None:
            folder.write("official_result.csv", official_csv(system.result).encode())
    rows = table_rows(results)
    store.write("results.csv", _csv(rows))
    store.write("results.md", _markdown(rows).encode())


def _test_scores(system: SystemResult) -> pa.Table:
    """The challenge's rows with each seed's own score, so that rows can be compared without their members."""
    table = system.challenge
    for seed, score_N in system.seed_test_scores.items():
        table = table.append_column(f"seed_{seed}", pa.array(score_N))
    return table


def table_rows(results: Results) -> list[list[str]]:
    """The rows of the study in percent, the header first; best of a column is not marked here."""
    places = [place.name for place in results.systems[0].places]
    rules = list(results.systems[0].rules)
    header = ["system", "scores", "official", "seeds mean", "seeds std", *places, *rules]
    published = any(system.published for system in results.systems)
    rows = [[*header, "published"] if published else header]
    for system in results.systems:
        figures = [system.official, system.seed_mean, system.seed_std]
        figures += [place.figures["hmean"] for place in system.places]
        figures += [system.rules[rule] for rule in rules]
        row = [f"{system.id} {system.title}".strip(), str(system.scores), *(_percent(figure) for figure in figures)]
        rows.append([*row, _known(system.published.get("official"))] if published else row)
    return rows


def _percent(figure: float | None) -> str:
    return "" if figure is None else f"{100 * figure:.2f}"


def _known(percent: float | None) -> str:
    return "" if percent is None else f"{percent:.2f}"


def _csv(rows: Sequence[Sequence[object]]) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue().encode()


def _markdown(rows: list[list[str]]) -> str:
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    note = "Percent. A machine's column is the harmonic mean of its source AUC, target AUC and pAUC (p = 0.1)."
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + f"\n\n{note}\n"


def results_table(results: Results) -> Table:
    """The table for a terminal, without the other ensemble rules; the best figure of a column is bold."""
    header, *rows = table_rows(results)
    shown = [i for i, name in enumerate(header) if name not in results.systems[0].rules]
    table = Table(title="harmonic mean of AUC source, AUC target and pAUC, percent")
    for i in shown:
        table.add_column(header[i], justify="left" if i == 0 else "right")
    compared = {i for i in shown if i > 1 and header[i] not in ("seeds std", "published")}
    best = {i: max((float(row[i]) for row in rows if row[i]), default=None) for i in compared}
    for row in rows:
        bold = {i for i in best if row[i] and float(row[i]) == best[i]}
        cells = [Text(row[i], style="bold" if i in bold else "") for i in shown]
        table.add_row(*cells)
    return table
