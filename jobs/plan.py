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
    from orchestrator.outlook import estimated_seconds, scores_of, shared_groups
    from orchestrator.plan import make_plan

    console = terminal()
    made = make_plan(load_study(study, overrides or []))
    train = sum(split == "train" for split in made.clips["split"].to_pylist())
    console.print(
        f"{made.study.name}: {len(made.clips)} clips ({train} for training), "
        f"{len(made.members)} members, {len(made.study.systems)} systems",
        highlight=False,
        markup=False,
    )
    table = Table("member", "group", "machine", "seed", "epochs", "classes", "state")
    for member in made.members.values():
        labels = made.label_sets.get(member.classes)
        classes = str(len(labels.classes)) if labels else ""
        shown = (member.hash, member.group, member.machine, str(member.seed), str(member.recipe.epochs), classes)
        table.add_row(*shown, made.state(member))
    for group, stage in made.waiting.items():
        recipe = made.study.groups[group]
        seeds = f"{len(made.study.seeds)} seeds"
        table.add_row("", group, "", seeds, str(recipe.epochs), "", f"waits for {stage}")
    console.print(table)
    for group, same in shared_groups(made).items():
        console.print(f"  {group}: has the members of {same}; on these recordings both are the same")
    for name, system in made.study.systems.items():
        console.print(f"  {name}: mean of {scores_of(made.study, name)} score(s) from {', '.join(system.groups)}")
    if made.pending or made.waiting:
        seconds = duration(estimated_seconds(made))
        console.print(f"left: very roughly {seconds} on one CPU core")
    console.print(f"next: asd run {' '.join([str(study), *(overrides or [])])}")
