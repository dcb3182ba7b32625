"""`asd synth`: write a made-up factory to try everything on, in the layout of DCASE 2024 Task 2."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.progress import Progress


def synth(
    folder: Annotated[Path, typer.Argument(help="New or empty folder to write.", metavar="DIR")],
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.")] = 0,
    machines: Annotated[str, typer.Option(help="Comma list of machine types; empty: all six.")] = "",
    without_attributes: Annotated[str, typer.Option(help="Types released as noAttribute.")] = "gearbox,slider",
    train_source: Annotated[int, typer.Option(help="Source training clips a machine.")] = 12,
    train_target: Annotated[int, typer.Option(help="Target training clips a machine.")] = 4,
    test_per_condition: Annotated[int, typer.Option(help="Test clips per domain and label.")] = 5,
    seconds: Annotated[float, typer.Option(help="Length of a clip, s.")] = 4.5,
    snr_db: Annotated[float, typer.Option(help="Machine to background ratio, dB; a clip is within ± 3 dB.")] = 6.0,
    difficulty: Annotated[str, typer.Option(help="easy, default, hard, or a number (2: twice as hard).")] = "default",
    external: Annotated[int, typer.Option(help="External candidate clips.")] = 120,
    plant_faults: Annotated[bool, typer.Option("--plant-faults", help="Plant broken files and list them.")] = False,
    workers: Annotated[int, typer.Option(help="Threads; the bytes do not depend on it.")] = 2,
) -> None:
    """Write a made-up factory: six machine types with attributes, two domains, graded faults, external audio."""
    from orchestrator.data.synth import FactoryOptions, make_factory
    from orchestrator.data.synth.options import strength_of

    options = FactoryOptions(
        seed=seed,
        without_attributes=_names(without_attributes),
        train_source=train_source,
        train_target=train_target,
        test_per_condition=test_per_condition,
        seconds=seconds,
        snr_db=snr_db,
        fault_strength=strength_of(difficulty),
        external=external,
        plant_faults=plant_faults,
        **({"machines": _names(machines)} if machines else {}),
    )
    with _progress() as progress:
        tasks = {what: progress.add_task(what, total=None) for what in ("clips", "external")}
        summary = make_factory(
            folder,
            options,
            workers,
            lambda what, done, total: progress.update(tasks[what], completed=done, total=total),
        )
    print(f"{'made' if summary.made else 'already there'}: {summary.clips} clips of {', '.join(summary.machines)}")
    print(f"external candidates: {summary.external}; planted broken files: {summary.planted}")
    print(f"folder: {summary.folder}")
    command = "run configs/studies/demo" if summary.external else "plan configs/studies/my_machines"  # no external
    print(f"next: asd {command}.yaml data.root={summary.folder}")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _progress() -> "Progress":
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed or 0:.0f} a second")

    return Progress(
        "{task.description}", BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn(), transient=True
    )
