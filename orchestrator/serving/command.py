"""What `asd score` does: open the model, find the files, write a row each, say how it went."""

import os
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from orchestrator.devices import check_device
from orchestrator.errors import ConfigError, StorageError
from orchestrator.memory import keep_freed_memory
from orchestrator.serving.location import ADVICE, open_model
from orchestrator.serving.output import Format, Writer
from orchestrator.serving.sources import STDIN, find_recordings
from orchestrator.serving.stream import score_files


class Request(NamedTuple):
    """The command's arguments."""

    paths: tuple[str, ...]
    model: str
    machine: str | None
    format: Format
    out: Path | None
    force: bool
    device: str
    threads: int | None
    tracking: str | None


def score_command(request: Request) -> int:
    """Score what the request names; the number of files that could not be scored."""
    if not request.model:
        raise ConfigError(f"--model is missing: {ADVICE}")
    if not request.paths and sys.stdin.isatty():
        raise ConfigError("no recordings: name files, folders or patterns, or send one file to standard input")
    if request.out is not None and request.out.exists() and not request.force:
        raise StorageError(f"{request.out} exists; name another file, or replace it with --force")
    keep_freed_memory()
    scorer = open_model(request.model, request.tracking).scorer(checked_device(request.device))
    if request.machine is not None and request.machine not in scorer.machines:
        raise ConfigError(f"--machine {request.machine}: the model knows {', '.join(scorer.machines)}")
    files = find_recordings(request.paths or (STDIN,))
    counts: Counter[str] = Counter()
    started, console = time.monotonic(), Console(stderr=True, highlight=False, markup=False)
    with _sink(request.out) as sink, _progress(console, len(files)) as step:
        writer = Writer(sink, request.format, scorer.machines)
        for row in score_files(files, scorer, machine=request.machine, threads=request.threads):
            writer.write(row)
            counts["problem" if row.answer.problem else str(row.answer.decision)] += 1
            step()
    seconds = time.monotonic() - started
    console.print(_summary(counts, seconds, request.out), soft_wrap=True)
    return counts["problem"]


def checked_device(device: str) -> str:
    """The device, with auto resolved; ResourceError where it is not there."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    check_device(device, "auto, cpu, cuda, cuda:N")
    return device


def _summary(counts: Counter[str], seconds: float, out: Path | None) -> str:
    total = sum(counts.values())
    said = f"{total} file(s) in {seconds:.1f} s ({total / max(seconds, 1e-9):.1f} files/s): "
    said += f"{counts['anomaly']} anomalous, {counts['normal']} normal, {counts['problem']} not scored"
    return said + (f"; the rows are in {out}" if out is not None else "")


@contextmanager
def _sink(out: Path | None) -> Iterator[IO[str]]:
    """Standard output, or a file that appears when it is complete. Odd bytes of names are kept as they are."""
    if out is None:
        sys.stdout.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]
        try:
            yield sys.stdout
            sys.stdout.flush()
        except BrokenPipeError:  # the reader, such as head, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(1) from None
        return
    part = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        with part.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            yield file
        os.replace(part, out)
    except OSError as error:
        raise StorageError(f"cannot write {out}: {error.strerror or error}; name another file") from error
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _progress(console: Console, total: int):
    """A bar with rate and time left on standard error, where that is a terminal."""
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.speed:.0f} files/s"), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task("scoring", total=total)
        yield lambda: progress.advance(task)
