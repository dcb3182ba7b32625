"""`asd prepare`: fetch a year of DCASE Task 2, or look how much of AudioSet is there, before a study is run."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.terminal import terminal

if TYPE_CHECKING:
    from rich.console import Console

    from orchestrator.data.archives import Archive
    from orchestrator.data.audioset_report import Coverage
    from orchestrator.data.preparation import Prepared, Progress, Sources

TRAINABLE = ("dev", "additional")
TRUTH = "truth"
SHOWN = 20  # missing clips that are printed; the others are only counted or written to a file


def prepare(
    what: Annotated[str, typer.Argument(metavar="YEAR|audioset", help="2020 to 2026, or `audioset`.")],
    subset: Annotated[
        list[str] | None,
        typer.Option(help="dev, additional, eval (without truth), truth; may be repeated (default: dev, additional)."),
    ] = None,
    into: Annotated[Path | None, typer.Option(help="The folder to fill (default: data/dcaseYEAR).")] = None,
    machine: Annotated[list[str] | None, typer.Option(help="Only this machine; may be repeated.")] = None,
    from_: Annotated[
        Path | None, typer.Option("--from", help="A folder with the archives; nothing is downloaded.")
    ] = None,
    mirror: Annotated[
        list[str] | None, typer.Option(help="URL of a folder with the archives, or https://HOST/{record}/{file}.")
    ] = None,
    api: Annotated[
        str | None, typer.Option(help="The API that publishes sizes and MD5 sums (default: Zenodo's).")
    ] = None,
    unchecked: Annotated[bool, typer.Option("--unchecked", help="Accept downloads without a known MD5 sum.")] = False,
    keep: Annotated[bool, typer.Option("--keep/--no-keep", help="Keep downloaded archives once unpacked.")] = True,
    truth: Annotated[
        Path | None, typer.Option(help="The evaluation's truth: CSV machine,file_name,is_anomaly,is_target.")
    ] = None,
    table: Annotated[Path | None, typer.Option(help="Table of archives (default: configs/data/dcase.csv).")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List archives, sizes and what is there; no more.")
    ] = False,
    parquet: Annotated[Path | None, typer.Option(help="audioset: folder of Parquet copies.")] = None,
    audio: Annotated[Path | None, typer.Option(help="audioset: folder of files named by video id.")] = None,
    segments: Annotated[Path | None, typer.Option(help="audioset: the list of clips, a segments CSV.")] = None,
    missing: Annotated[Path | None, typer.Option(help="audioset: write the missing clips to this CSV.")] = None,
) -> None:
    """Download (or take from a folder), check and unpack recordings; run it again to go on where it was."""
    from orchestrator.data.archives import API, TABLE, choose, read_archives
    from orchestrator.data.preparation import Sources

    console = terminal()
    if what == "audioset":
        _audioset(console, segments, audio, parquet, missing)
        return
    year = _year(what)
    subsets = list(dict.fromkeys(subset or TRAINABLE))
    folder = into or Path(f"data/dcase{year}")
    if TRUTH in subsets and truth is None:
        _refuse_truth(year, folder)
    wanted = [name for name in subsets if name != TRUTH]
    archives = choose(read_archives(table or TABLE), year, wanted, machine or []) if wanted else []
    sources = Sources(from_, mirror or (), api or API, unchecked)
    rows = _look(console, archives, folder, sources) if dry_run else _fetch(console, archives, folder, sources, keep)
    if dry_run:
        console.print(f"nothing was fetched. Next: the same command without --dry-run fills {folder}", soft_wrap=True)
        return
    _finish(console, rows, folder, truth)


def _year(what: str) -> int:
    from orchestrator.errors import DataError

    if not what.isdigit():
        raise DataError(f"cannot prepare {what!r}; valid: a year such as 2024, or audioset. Try: asd prepare 2024")
    return int(what)


def _refuse_truth(year: int, folder: Path) -> None:
    from orchestrator.errors import DataError

    raise DataError(
        f"the table of archives lists no truth for {year}: give the file that the organisers published, as a CSV of "
        f"machine,file_name,is_anomaly,is_target: asd prepare {year} --subset truth --truth FILE --into {folder}"
    )


def _look(console: "Console", archives: "list[Archive]", into: Path, sources: "Sources") -> "list[Prepared]":
    from orchestrator.data.preparation import look

    rows = look(archives, into, sources)
    _print_table(console, rows)
    unknown = sum(row.size is None for row in rows)
    doubt = f", {unknown} more of unknown size" if unknown else ""
    known = _size(sum(row.size or 0 for row in rows))
    console.print(f"{len(rows) - unknown} archives of {known}{doubt}")
    return rows


def _fetch(
    console: "Console", archives: "list[Archive]", into: Path, sources: "Sources", keep: bool
) -> "list[Prepared]":
    from orchestrator.data.preparation import prepare as prepare_archives

    with _progress(console) as on_progress:
        rows = prepare_archives(archives, into, sources, keep_archives=keep, on_progress=on_progress)
    if rows:
        _print_table(console, rows)
    return rows


@contextmanager
def _progress(console: "Console") -> "Iterator[Progress]":
    """A bar for the archive that is arriving: bytes, rate, time left."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as bars:
        tasks: dict[str, int] = {}

        def show(archive: "Archive", done: int, total: int | None) -> None:
            if archive.url not in tasks:
                tasks[archive.url] = bars.add_task(f"{archive.subset} {archive.machine}", completed=done)
            bars.update(tasks[archive.url], completed=done, total=total)  # type: ignore[arg-type]

        yield show


def _print_table(console: "Console", rows: "list[Prepared]") -> None:
    from rich.table import Table

    table = Table("subset", "machine", "archive", "size", "state", title="Archives")
    for row in rows:
        size = _size(row.size) if row.size is not None else "unknown"
        table.add_row(row.archive.subset, row.archive.machine, row.archive.file_name, size, row.state)
    console.print(table)
    for row in rows:
        if row.note:
            console.print(f"{row.state}: {row.archive.subset} {row.archive.machine}: {row.note}", soft_wrap=True)


def _size(size_bytes: int) -> str:
    from rich.filesize import decimal

    return decimal(size_bytes)


def _finish(console: "Console", rows: "list[Prepared]", folder: Path, truth: Path | None) -> None:
    """Join the truth, say where everything is and what to run; exit code 1 where something is missing or broken."""
    from orchestrator.data.known_truth import write_truth
    from orchestrator.data.preparation import UNPACKED

    whole = sum(row.state == UNPACKED for row in rows)
    if rows:
        console.print(f"{whole} of {len(rows)} archives are unpacked in {folder}", soft_wrap=True)
    if rows and not whole:
        console.print("run the same command again to go on with the others")
        raise typer.Exit(1)
    known = write_truth(folder, truth)
    strays = f"; {known.strays} rows of {truth} name no clip here" if known.strays else ""
    where = f": {known.path}" if known.rows else ""
    console.print(f"truth of {known.rows} test clips{where}; {known.unknown} unknown{strays}", soft_wrap=True)
    if whole < len(rows):
        console.print("run the same command again to go on with the others")
    study = f"asd run configs/studies/table1.yaml data.root={folder}"
    console.print(f"Next: asd scan {folder}{f' --truth {known.path}' if known.joined else ''}", soft_wrap=True)
    console.print(f"then: {study}{f' data.truth={known.path}' if known.joined else ''}", soft_wrap=True)
    if whole < len(rows):
        raise typer.Exit(1)


def _audioset(
    console: "Console", segments: Path | None, audio: Path | None, parquet: Path | None, missing: Path | None
) -> None:
    from orchestrator.data.audioset_report import coverage, write_missing
    from orchestrator.errors import DataError

    if segments is None:
        raise DataError(
            "which clips should be there? asd prepare audioset --segments CSV --audio DIR (or --parquet DIR)"
        )
    report = coverage(segments, audio=audio, parquet=parquet)
    _print_coverage(console, report)
    if missing is not None:
        write_missing(report, missing)
        console.print(f"{len(report.missing)} missing clips are listed in {missing}", soft_wrap=True)
    source = f"{{audio: {audio}, segments: {segments}}}" if audio else f"{{parquet: {parquet}}}"
    study = "asd run configs/studies/table1.yaml data.root=data/dcase2024"
    console.print(f"Next: {study} 'core_set.sources=[{source}]'", soft_wrap=True)


def _print_coverage(console: "Console", report: "Coverage") -> None:
    from rich.table import Table

    table = Table("class", "listed", "there", "missing", title="AudioSet's machine classes")
    for name, (listed, there) in report.classes.items():
        table.add_row(name, str(listed), str(there), str(listed - there))
    console.print(table)
    console.print(f"{report.there} of {report.listed} listed clips are there, {len(report.missing)} are missing")
    for video_id in list(report.missing)[:SHOWN]:
        console.print(f"missing: {video_id}")
    if len(report.missing) > SHOWN:
        console.print(f"... and {len(report.missing) - SHOWN} more (--missing FILE writes all)")
