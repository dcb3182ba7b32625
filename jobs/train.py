"""`asd train`: one member in this process, without Ray."""

from pathlib import Path
from typing import Annotated

import typer

from jobs.terminal import terminal


def train(
    study: Annotated[Path, typer.Argument(help="study file, for example configs/studies/demo.yaml")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value ..., as for `asd run`")] = None,
    group: Annotated[str, typer.Option(help="which of the study's groups")] = "",
    seed: Annotated[int, typer.Option(help="which of the study's seeds")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:1")] = "cpu",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads; a slot of the farm has one")] = 1,
) -> None:
    """Train and score one member of a study without Ray: the same code as the farm, and the same scores."""
    from orchestrator.devices import graphs_note
    from orchestrator.loading import load_study
    from orchestrator.single import train_single

    console = terminal()

    def epoch_line(stage: str, clips: float) -> None:
        console.print(f"{stage}: {clips:.0f} clips")

    loaded = load_study(study, overrides or [])
    if note := graphs_note(loaded.cluster.cuda_graphs, device != "cpu"):
        console.print(f"note: {note}")
    folder = train_single(loaded, group, seed, device, threads, epoch_line)
    console.print(f"the member is in {folder.uri}")
    console.print(
        f"next: asd run {' '.join([str(study), *(overrides or [])])}   (it reuses this member)",
        highlight=False,
        markup=False,
    )
