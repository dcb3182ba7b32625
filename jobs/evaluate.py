"""`asd evaluate`: the official result of a folder of challenge files."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from jobs.terminal import terminal


def evaluate(
    folder: Annotated[Path, typer.Argument(help="holds anomaly_score_*.csv and decision_result_*.csv")],
    truth: Annotated[
        Path, typer.Option(help="CSV of machine,file_name,is_anomaly,is_target; or clips.parquet; or data")
    ],
    machines: Annotated[str, typer.Option(help="only these, comma separated")] = "",
    csv: Annotated[Path | None, typer.Option(help="write the official_result.csv here")] = None,
    force: Annotated[bool, typer.Option(help="replace the --csv file")] = False,
) -> None:
    """Evaluate challenge files of any system as the official scorer does; every fault is named, line by line."""
    from orchestrator.data.truth import read_truth
    from orchestrator.errors import StorageError
    from orchestrator.evaluation import evaluate_folder, official_csv
    from orchestrator.storage import Store

    console = terminal()
    chosen = [name for name in machines.split(",") if name]
    result = evaluate_folder(folder, read_truth(truth), chosen)
    table = Table("machine", "section", "AUC source", "AUC target", "pAUC", "harmonic mean", title=str(folder))
    for (machine, section), figures in sorted(result.sections.items()):
        shown = (figures.auc_source, figures.auc_target, figures.pauc, figures.hmean)
        table.add_row(machine, section, *("" if f is None else f"{100 * f:.2f}" for f in shown))
    console.print(table)
    score = result.official_score
    text = "none: no machine has normal and anomalous test clips" if score is None else f"{100 * score:.2f} %"
    console.print(f"official score: {text}")
    if csv is None:
        console.print("next: --csv FILE writes all figures as the official scorer does")
        return
    content = official_csv(result).encode()
    if csv.exists() and csv.read_bytes() != content and not force:
        raise StorageError(f"{csv} exists with other content; --force replaces it, or give another --csv")
    Store.at(csv.absolute().parent).write(csv.name, content)
    console.print(f"all figures are in {csv}")
