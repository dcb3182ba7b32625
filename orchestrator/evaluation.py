"""The official result of a system's scores: of a study's table, or of any folder of challenge files."""

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from models.metrics import SectionFigures, arithmetic_mean, harmonic_mean, official_score, section_figures
from orchestrator.data.clips import by_place
from orchestrator.errors import StorageError, SubmissionError
from orchestrator.storage import Store
from orchestrator.submission import ChallengeFile, find_files, read_challenge_file

KINDS = ("anomaly_score", "decision_result")
Place = tuple[str, str]  # machine, section
Files = dict[tuple[str, str, str], Path]  # by kind, machine, section


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
    known: dict[str, dict[str, dict]] = {}
    for row in truth.to_pylist():
        known.setdefault(row["machine"], {})[row["file_name"]] = row
    there = ", ".join(sorted(known))
    strange = sorted(set(machines) - known.keys())
    if strange:
        raise SubmissionError(f"--machines {','.join(strange)}: not in the truth, which has {there}")
    if not machines:
        unknown = (path for (_, machine, _), path in files.items() if machine not in known)
        faults += [f"{path}: its machine is not in the truth, which has {there}" for path in unknown]
    rows = [
        row
        for machine in sorted(set(machines) or known)
        for row in _machine_rows(folder, machine, files, known[machine], faults)
    ]
    if faults:
        raise SubmissionError("\n".join([f"{len(faults)} fault(s) in {folder}:", *faults]))
    return evaluate_scores(pa.Table.from_pylist(rows))


def _machine_rows(folder: Path, machine: str, files: Files, truth: dict[str, dict], faults: list[str]) -> list[dict]:
    """All rows of a machine with their truth; what is wrong goes to `faults`."""
    sections = sorted({section for _, of, section in files if of == machine})
    if not sections:
        present = ",".join(sorted({of for _, of, _ in files}))
        hint = f"for a part only: --machines {present}" if present else "the folder has no such file; name another"
        faults.append(f"{folder}: no anomaly_score_{machine}_section_<nn>_test.csv; {hint}")
        return []
    rows: list[dict] = []
    owner: dict[str, Path] = {}
    for section in sections:
        scores, decisions = (_read(folder, kind, machine, section, files, faults) for kind in KINDS)
        _compare(scores, decisions, truth, owner, faults)
        for name in sorted(truth.keys() & scores.values.keys() & decisions.values.keys()):
            values = {"score": scores.values[name], "decision": decisions.values[name]}
            rows.append({"section": section, **truth[name], **values})
    if owner:  # else nothing was readable, which has been said
        faults += [f"{folder}: {machine}: no score for {name}" for name in sorted(truth.keys() - owner.keys())]
    return rows


def _read(folder: Path, kind: str, machine: str, section: str, files: Files, faults: list[str]) -> ChallengeFile:
    """One file of a section; without it, a file without lines and a fault."""
    path = files.get((kind, machine, section))
    if path is None:
        path = folder / f"{kind}_{machine}_section_{section}_test.csv"
        faults.append(f"{path}: missing; a section has both files, scores and decisions")
        return ChallengeFile(path, {}, {})
    return read_challenge_file(path, faults)


def _compare(
    scores: ChallengeFile, decisions: ChallengeFile, truth: dict[str, dict], owner: dict[str, Path], faults: list[str]
) -> None:
    """Hold a section's names against the truth, against each other and against the sections before (`owner`)."""
    for file, other in ((scores, decisions), (decisions, scores)):
        for name, line in file.lines.items():
            at = f"{file.path}:{line}: {name}"
            if name not in truth:
                faults.append(f"{at} is not in the truth")
            elif other.lines and name not in other.lines:
                faults.append(f"{at} is missing in {other.path.name}")
            if file is scores and name in owner:
                faults.append(f"{at} is in {owner[name].name} too")
    for file in (scores, decisions):
        for name in file.lines:
            owner.setdefault(name, file.path)


def write_official_csv(result: OfficialResult, path: Path, force: bool = False) -> None:
    """Write the official figures to a CSV file; one with other content is only replaced with `force` (StorageError)."""
    content = official_csv(result).encode()
    if path.is_dir():
        raise StorageError(f"{path} is a folder; name a file in it, such as --csv {path / 'official_result.csv'}")
    if path.exists() and path.read_bytes() != content and not force:
        raise StorageError(f"{path} exists with other content; --force replaces it, or give another --csv")
    Store.at(path.absolute().parent).write(path.name, content)


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
    writer.writerow([])
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
