"""`asd score`: recordings in, scores and decisions out."""

from pathlib import Path
from typing import Annotated, Literal

import typer


def score(
    paths: Annotated[
        list[str] | None, typer.Argument(help="files, folders, patterns; - or nothing: one file from standard input")
    ] = None,
    model: Annotated[
        str, typer.Option(help="results/STUDY/systems/ROW, models:/NAME@champion, or an exported folder")
    ] = "",
    machine: Annotated[str | None, typer.Option(help="of all recordings; default: each one's path tells")] = None,
    format: Annotated[Literal["table", "csv", "jsonl"], typer.Option(help="of the rows")] = "table",
    out: Annotated[Path | None, typer.Option(help="write the rows here instead of to the terminal")] = None,
    force: Annotated[bool, typer.Option(help="replace the --out file")] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:N, or auto: a GPU where there is one")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="cores to use; default: all")] = None,
    tracking: Annotated[str | None, typer.Option(help="MLflow store of a models:/ address")] = None,
) -> None:
    """Score recordings; exit code 1 where some could not be used, each with its reason in its row."""
    from orchestrator.serving.command import Request, score_command

    request = Request(tuple(paths or ()), model, machine, format, out, force, device, threads, tracking)
    if score_command(request):
        raise typer.Exit(1)
