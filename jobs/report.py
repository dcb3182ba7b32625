"""`asd report`: one HTML page of a study."""

from typing import Annotated

import typer

from jobs.terminal import terminal


def report(
    study: Annotated[str, typer.Argument(help="results folder, for example results/demo; or the study file")],
    out: Annotated[str | None, typer.Option(help="where the page goes; default: report.html in the results")] = None,
    clips: Annotated[
        int, typer.Option(min=0, max=50, help="test clips to hear from either end of the scores, each machine")
    ] = 2,
) -> None:
    """Write one HTML page of a study, finished or not: tables, charts, sounds and origins, all in a single file."""
    from orchestrator.report.page import make_report

    made = make_report(study, out, clips)
    console = terminal()
    for note in made.notes:
        console.print(f"note: {note}", soft_wrap=True)
    console.print(f"the page is {made.place} ({made.size / 1e6:.1f} MB, complete in itself)", soft_wrap=True)
    console.print("open it with any browser, without a network:", soft_wrap=True)
    console.print(f"  {made.address}", soft_wrap=True)
