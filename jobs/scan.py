"""`asd scan`: look at folders of recordings and say what is there and what is broken, before anything is trained."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.terminal import terminal

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.console import Console
    from rich.table import Table

    from orchestrator.data.clip_summary import MachineSummary

HEADINGS = ("machine", "train source/target", "test normal/anomaly/unlabelled", "attributes", "seconds", "bad", "notes")


def scan(
    roots: Annotated[
        list[str], typer.Argument(metavar="ROOT...", help="Folders or URIs of <machine>/train and <machine>/test.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Write the clip table here; unchanged clips in it are not read again.")
    ] = None,
    truth: Annotated[str | None, typer.Option(help="CSV: machine,file_name,is_anomaly,is_target.")] = None,
    min_seconds: Annotated[float, typer.Option(min=0, help="Shorter recordings count as bad.")] = 0.1,
    workers: Annotated[int, typer.Option(min=1, help="Threads that read and decode.")] = 2,
) -> None:
    """Check every recording of the folders, count what there is, and list what cannot be used (exit code 1)."""
    from orchestrator.data.clip_summary import summary
    from orchestrator.data.clips import join_truth, write_table

    console = terminal()
    clips = _scan(console, roots, out, min_seconds, workers)
    if truth is not None:
        from orchestrator.data.truth import read_truth

        clips = join_truth(clips, read_truth(truth))
    if out is not None:
        write_table(clips, out)
    console.print(_table(summary(clips)))
    bad = clips.filter([problem != "" for problem in clips["problem"].to_pylist()])
    _list_bad(console, bad)
    _say_next(console, len(clips), len(bad), roots, out)
    if len(bad):
        raise typer.Exit(1)


def _scan(console: "Console", roots: list[str], out: Path | None, min_seconds: float, workers: int) -> "pa.Table":
    """Scan with a progress bar that shows rate and time left; notes on folders left aside come first."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from orchestrator.data import clips

    known = clips.read_table(out) if out is not None and out.exists() else None
    rate = TextColumn("{task.speed:.0f} clips/s") if console.is_terminal else TextColumn("")
    with Progress(BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task("reading", total=None)
        return clips.scan(
            roots,
            min_seconds,
            known,
            workers,
            on_progress=lambda done, total: progress.update(task, completed=done, total=total),
            on_note=lambda note: console.print(f"note: {note}"),
        )


def _table(rows: "list[MachineSummary]") -> "Table":
    from rich.table import Table

    table = Table(*HEADINGS, title="Recordings")
    for row in rows:
        tests = ", ".join(f"{domain} {n}/{a}/{u}" for domain, (n, a, u) in row.test.items()) or "none"
        seconds = "{:.1f} to {:.1f}".format(*row.seconds)
        train = f"{row.train_source}/{row.train_target}"
        table.add_row(row.machine, train, tests, row.attributes, seconds, str(row.bad), "; ".join(row.notes))
    return table


def _list_bad(console: "Console", bad: "pa.Table") -> None:
    for path, problem in zip(bad["path"].to_pylist(), bad["problem"].to_pylist(), strict=True):
        console.print(f"bad: {path}: {problem}", soft_wrap=True)


def _say_next(console: "Console", total: int, bad: int, roots: list[str], out: Path | None) -> None:
    folders = ",".join(roots)
    allowed = f" data.max_bad_clips={bad}" if bad else ""
    table = f"; table: {out}" if out else ""
    console.print(f"{total} clips, {bad} of them bad{table}", soft_wrap=True)
    if bad:
        console.print(
            "Repair or remove the bad clips and scan again, or leave them out with data.max_bad_clips as below."
        )
    console.print(f"Next: asd plan configs/studies/my_machines.yaml 'data.root=[{folders}]'{allowed}", soft_wrap=True)
