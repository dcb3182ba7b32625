"""`asd bench`: how fast this machine is, as ratios within one run."""

import json
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from jobs.terminal import terminal


def bench(
    parts: Annotated[
        list[str] | None,
        typer.Argument(
            help="train, infer, external, study, growth (the first three with other slots and data); all if none"
        ),
    ] = None,
    quick: Annotated[bool, typer.Option(help="tiny sizes: only to see that everything runs (2 minutes)")] = False,
    out: Annotated[Path, typer.Option(help="the figures as JSON")] = Path("bench.json"),
    batch: Annotated[int, typer.Option(min=2, help="clips of a training batch")] = 64,
    clip_seconds: Annotated[float, typer.Option(min=4.5)] = 10.0,
    rounds: Annotated[int, typer.Option(min=1, help="every case so often, in turns")] = 3,
) -> None:
    """Training, inference, external scoring and a whole study, against the common way and against their own parts."""
    from orchestrator.bench.suite import PARTS, Sizes, run_suite, tables
    from orchestrator.devices import cores
    from orchestrator.errors import ConfigError

    asked = ["train", "infer", "external", "growth"] if parts == ["growth"] else parts or list(PARTS)
    if wrong := [part for part in asked if part not in PARTS]:
        raise ConfigError(f"asd bench {wrong[0]}: the parts are {', '.join(PARTS)}")
    if out.exists() and not out.is_file():
        raise ConfigError(f"--out {out}: is a folder; name a file")
    console = terminal()
    sizes = Sizes.quick(cores()) if quick else Sizes(cores(), clip_seconds, batch, rounds=rounds)
    with tempfile.TemporaryDirectory(prefix="asd-bench-") as folder:
        results = run_suite(Path(folder), asked, sizes, console.print)
    out.write_text(json.dumps(results, indent=2))
    machine = results["machine"]
    console.print(
        f"{machine['cores']} core(s) of {machine['processor']}, networks of ours in {machine['networks of ours']}"
    )
    for table in tables(results):
        console.print(table)
    console.print(f"the figures are in {out}; what they were elsewhere, and what was tried, is in docs/performance.md")
    console.print("next: on a GPU machine, python -m orchestrator.bench --device cuda   (needs no Ray)")
