"""`asd compare`: rows of finished studies side by side."""

from typing import Annotated

import typer

from jobs.terminal import terminal


def compare(
    folders: Annotated[list[str], typer.Argument(help="studies' folders, for example results/demo")],
    against: Annotated[str, typer.Option(help="row that all others are tested against, by name or study/name")] = "",
    out: Annotated[str | None, typer.Option(help="where compare.md and compare.csv go; default: first folder")] = None,
    rounds: Annotated[int, typer.Option(min=100, help="bootstrap rounds")] = 1000,
    mlflow: Annotated[bool, typer.Option(help="also put the table at the first study's MLflow run")] = True,
) -> None:
    """Show rows x machines as in the report's Table 1: best figures bold, seeds' spread, published figures."""
    from orchestrator.compare import as_columns, as_csv, as_markdown, as_table, notes
    from orchestrator.compare import compare as compare_studies
    from orchestrator.ledger import log_comparison
    from orchestrator.storage import Store

    console = terminal()
    comparison = compare_studies(folders, against or None, rounds)
    console.print(as_table(comparison))
    for note in notes(comparison):
        console.print(note)
    place = Store.at(out or folders[0])
    place.write("compare.md", as_markdown(comparison).encode())
    place.write("compare.csv", as_csv(comparison).encode())
    console.print(f"the table is in {place.uri}/compare.md and compare.csv", soft_wrap=True)
    if mlflow:
        page = log_comparison(folders[0], as_columns(comparison), console.print)
        console.print(f"and at the study's run in MLflow: {page}", soft_wrap=True)
    rows = comparison.rows
    console.print(f"next: asd compare {' '.join(map(str, folders))} --against {rows[0].name}", soft_wrap=True)
