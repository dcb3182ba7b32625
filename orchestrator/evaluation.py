"""The official result of a system's scores: of a study's table, or of any folder of challenge files."""

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from models.metrics import SectionFigures, arithmetic_mean, harmonic_mean, official_score, section_figures
from orchestrator.errors import SubmissionError
from orchestrator.scoring import by_place
from orchestrator.submission import find_files, read_challenge_file

LISTED = 50
Place = tuple[str, str]  # machine, section


class OfficialResult(NamedTuple):
    """The figures of every machine and section, and the official score over them (None without any figure)."""

    sections: dict[Place, SectionFigures]

    @property
    def official_score(self) -> float | None:
        return official_score(list(self.sections.values()))


def evaluate_scores(rows: pa.Table) -> OfficialResult:
    """Evaluate test clips: machine, section, score, decision (0 or 1), is_anomaly, is_target."""
    columns = [rows[name].to_numpy(zero_copy_only=False) for name in ("is_anomaly", "is_target", "score", "decision")]
    anomaly, target, score, decision = columns
    flags = anomaly.astype(bool), target.astype(bool), decision.astype(bool)
    return OfficialResult(
        {
            place: section_figures(flags[0][at], flags[1][at], score[at], flags[2][at])
            for place, at in by_place(rows).items()
        }
    )


def evaluate_folder(folder: Path, truth: pa.Table, machines: Sequence[str] = ()) -> OfficialResult:
    """Check a folder of challenge files against the truth and evaluate it.

    SubmissionError lists everything that is missing, doubled, unknown or no number, as `file:line: what`. Without
    `machines` every machine of the truth must be there.
    """
    files, faults = find_files(folder), list[str]()
    known = {(row["machine"], row["file_name"]): row for row in truth.to_pylist()}
    wanted = set(machines) or {machine for machine, _ in known}
    strange = sorted(set(machines) - {machine for machine, _ in known})
    if strange:
        raise SubmissionError(f"--machines {', '.join(strange)}: not in the truth, which has {_names(known)}")
    faults += [
        f"{path}: the truth knows no machine {machine}; it has {_names(known)}"
        for (_, machine, _), path in files.items()
        if machine not in wanted and not machines
    ]
    rows = [row for machine in sorted(wanted) for row in _machine_rows(folder, machine, files, known, faults)]
    if faults:
        rest = [f"... and {len(faults) - LISTED} more"] if len(faults) > LISTED else []
        raise SubmissionError("\n".join([f"{len(faults)} fault(s) in {folder}:", *faults[:LISTED], *rest]))
    return evaluate_scores(pa.Table.from_pylist(rows))


def _names(known: Iterable[Place]) -> str:
    return ", ".join(sorted({machine for machine, _ in known}))


def _machine_rows(
    folder: Path,
    machine: str,
    files: dict[tuple[str, str, str], Path],
    known: dict[tuple[str, str], dict],
    faults: list[str],
) -> list[dict]:
    """All rows of a machine with their truth; what is wrong goes to `faults`."""
    expected = {name for of, name in known if of == machine}
    sections = sorted(section for kind, of, section in files if kind == "anomaly_score" and of == machine)
    if not sections:
        faults.append(
            f"{folder}: no anomaly_score_{machine}_section_<nn>_test.csv (or leave {machine} out: --machines)"
        )
        return []
    rows: list[dict] = []
    seen: set[str] = set()
    for section in sections:
        scores = read_challenge_file(files["anomaly_score", machine, section], faults)
        decision_path = files.get(("decision_result", machine, section))
        if decision_path is None:
            faults.append(f"{folder}: no decision_result_{machine}_section_{section}_test.csv beside its scores")
            continue
        decisions = read_challenge_file(decision_path, faults)
        seen |= scores.values.keys() | decisions.values.keys()
        faults += [f"{scores.path}: {name} is not in the truth" for name in scores.values if name not in expected]
        for name in sorted(scores.values.keys() ^ decisions.values.keys()):
            lacking, having = (decisions, scores) if name in scores.values else (scores, decisions)
            faults.append(f"{lacking.path}: {name} is missing; {having.path.name} has it")
        for name in sorted(expected & scores.values.keys() & decisions.values.keys()):
            values = {"score": scores.values[name], "decision": decisions.values[name]}
            rows.append({"section": section, **known[machine, name], **values})
    faults += [f"{folder}: {machine}: no score for {name}" for name in sorted(expected - seen)]
    return rows


def official_csv(result: OfficialResult) -> str:
    """The text of the official scorer's `official_result.csv`, without its line on confidence."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    machines = sorted({machine for machine, _ in result.sections})
    for machine in machines:
        mine = {section: f for (of, section), f in result.sections.items() if of == machine}
        writer.writerow([machine])
        writer.writerow(["section", *_SECTION_COLUMNS])
        for section, figures in sorted(mine.items()):
            writer.writerow([section, *map(_text, _section_row(figures))])
        writer.writerow(["", "", *_MEAN_COLUMNS])
        writer.writerows(_mean_rows(list(mine.values()), ""))
        writer.writerow([])
    writer.writerow(["", "", *_MEAN_COLUMNS])
    writer.writerows(_mean_rows(list(result.sections.values()), " over all machine types, sections, and domains"))
    writer.writerow([])
    writer.writerow(["official score", "", _text(result.official_score)])
    return buffer.getvalue()


_SECTION_COLUMNS = (
    *("AUC (all)", "AUC (source)", "AUC (target)", "pAUC", "precision (source)", "precision (target)"),
    *("recall (source)", "recall (target)", "F1 score (source)", "F1 score (target)"),
)
_MEAN_COLUMNS = ("AUC", "pAUC", "precision", "recall", "F1 score")


def _text(figure: float | None) -> str:
    return "" if figure is None else repr(float(figure))


def _section_row(figures: SectionFigures) -> list[float | None]:
    decisions = [
        getattr(d, name, None) for name in ("precision", "recall", "f1") for d in (figures.source, figures.target)
    ]
    return [figures.auc_all, figures.auc_source, figures.auc_target, figures.pauc, *decisions]


def _mean_rows(sections: Sequence[SectionFigures], suffix: str) -> list[list[str]]:
    def row(name: str, mean: Callable[[Iterable[float | None]], float | None], domains: Sequence[str]) -> list[str]:
        figures = [[getattr(s, f"auc_{domain}") for s in sections for domain in domains], [s.pauc for s in sections]]
        decisions = [getattr(s, domain) for s in sections for domain in domains]
        figures += [[getattr(d, kind, None) for d in decisions] for kind in ("precision", "recall", "f1")]
        return [f"{name}{suffix}", "", *(_text(mean(column)) for column in figures)]

    both = ("source", "target")
    return [
        row("arithmetic mean", arithmetic_mean, both),
        row("harmonic mean", harmonic_mean, both),
        row("source harmonic mean", harmonic_mean, ["source"]),
        row("target harmonic mean", harmonic_mean, ["target"]),
    ]
