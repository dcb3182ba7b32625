"""`asd evaluate`: the official result of a folder of challenge files."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from jobs.terminal import terminal


def evaluate(
    folder: Annotated[Path, typer.Argument(help="holds anomaly_score_*.csv and decision_result_*.csv")],
    truth: Annotated[
        str, typer.Option(help="CSV of machine,file_name,is_anomaly,is_target; or clips.parquet; or data")
    ],
    machines: Annotated[str, typer.Option(help="only these, comma separated")] = "",
    csv: Annotated[Path | None, typer.Option(help="write the official_result.csv here")] = None,
    force: Annotated[bool, typer.Option(help="replace the --csv file")] = False,
) -> None:
    """Evaluate challenge files of any system as the official scorer does; every fault is named, line by line."""
    from orchestrator.data.truth import read_truth
    from orchestrator.evaluation import evaluate_folder, write_official_csv

    console = terminal()
    chosen = [name.strip() for name in machines.split(",") if name.strip()]
    result = evaluate_folder(folder, read_truth(truth), chosen)
    table = Table("machine", "section", "AUC source", "AUC target", "pAUC", "harmonic mean", title=str(folder))
    for (machine, section), figures in sorted(result.sections.items()):
        shown = (figures.auc_source, figures.auc_target, figures.pauc, figures.hmean)
        table.add_row(machine, section, *("" if f is None else f"{100 * f:.2f}" for f in shown))
    console.print(table)
    for (machine, section), figures in sorted(result.sections.items()):
        if figures.absent:
            names = ", ".join(figures.absent)
            reason = "its test clips lack anomalies, or normal clips of that domain"
            console.print(f"{machine} section {section}: no {names}: {reason}", soft_wrap=True)
    score = result.official_score
    text = "none: no machine has normal and anomalous test clips" if score is None else f"{100 * score:.2f} %"
    console.print(f"official score: {text}")
    if csv is None:
        console.print("Next: --csv FILE writes all figures as the official scorer does")
        return
    write_official_csv(result, csv, force)
    console.print(f"All figures are in {csv}. Next, another system: asd evaluate DIR --truth {truth}", soft_wrap=True)
