"""`asd coreset`: choose external audio for a study whose chooser is trained."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from jobs.terminal import terminal


def coreset(
    study: Annotated[Path, typer.Argument(help="study file with a core_set block, for example table1.yaml")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value ..., as for `asd run`")] = None,
) -> None:
    """Score external audio with a finished study's members and keep what sounds like its machines (Algorithm 2)."""
    from orchestrator.coreset_alone import choose_alone
    from orchestrator.display import RunDisplay
    from orchestrator.loading import load_study

    console = terminal()
    with RunDisplay(console) as display:
        core_set, folder = choose_alone(load_study(study, overrides or []), display)
    table = Table("machine", "limit", "chosen", "classes", title="the core-set")
    for machine, limit in core_set.summary["threshold"].items():
        chosen = core_set.summary["chosen"].get(machine, {})
        classes = ", ".join(f"{name} {count}" for name, count in chosen.items())
        table.add_row(machine, f"{limit:.4f}", str(sum(chosen.values())), classes)
    console.print(table)
    counted = core_set.summary["candidates"]
    console.print(
        f"{counted['seen']} external clips, {counted['listed']} of a candidate class, {counted['scored']} scored, "
        f"{counted['problems']} not decodable"
    )
    console.print(f"{len(core_set.table)} clips, with their audio, are in {folder.uri}/core_set.parquet;")
    console.print("summary.json beside it counts the candidates, problems.csv lists those that could not be decoded")
    console.print(f"next: asd run {' '.join([str(study), *(overrides or [])])}   (trains on them)", soft_wrap=True)
