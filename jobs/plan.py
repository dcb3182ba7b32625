"""`asd plan`: what a study needs and what is already there."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from jobs.terminal import terminal


def plan(
    study: Annotated[Path, typer.Argument(help="study file, for example configs/studies/demo.yaml")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value ..., as for `asd run`")] = None,
) -> None:
    """List a study's members and what is left to do; nothing is written or started."""
    from orchestrator.display import duration
    from orchestrator.loading import load_study
    from orchestrator.study import estimated_seconds, make_plan

    console = terminal()
    made = make_plan(load_study(study, overrides or []))
    train = sum(split == "train" for split in made.clips["split"].to_pylist())
    console.print(
        f"{made.study.name}: {len(made.clips)} clips ({train} for training), {len(made.vocabulary)} classes, "
        f"{len(made.members)} members, {len(made.study.systems)} systems",
        highlight=False,
        markup=False,
    )
    table = Table("member", "group", "seed", "epochs", "state")
    for member in made.members.values():
        table.add_row(member.hash, member.group, str(member.seed), str(member.recipe.epochs), made.state(member))
    console.print(table)
    for name, system in made.study.systems.items():
        scores = sum(len(made.study.groups[g].checkpoints) * len(made.study.seeds) for g in system.groups)
        console.print(f"  {name}: mean of {scores} scores from {', '.join(system.groups)}")
    passes = made.clip_passes()
    if passes:
        seconds = duration(estimated_seconds(made))
        console.print(f"left: {passes} clip passes, very roughly {seconds} on one CPU core")
    console.print(f"next: asd run {' '.join([str(study), *(overrides or [])])}")
