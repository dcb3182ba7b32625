"""`asd run`: execute a study, or go on with it."""

import time
from pathlib import Path
from typing import Annotated

import typer

from jobs.terminal import terminal


def run(
    study: Annotated[Path, typer.Argument(help="study file, for example configs/studies/demo.yaml")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value ..., for example data.root=DIR seeds=2")
    ] = None,
) -> None:
    """Train, score and compare everything a study names; run it again to go on after any interruption."""
    from orchestrator.display import RunDisplay, duration
    from orchestrator.loading import load_study, study_store
    from orchestrator.study import run_study

    started = time.monotonic()
    checked = load_study(study, overrides or [])
    console = terminal()
    with RunDisplay(console) as display:
        outcome = run_study(checked, display)
    from orchestrator.results import results_table  # heavy: `run_study` starts Ray before it imports such

    console.print(results_table(outcome.results))
    folder = f"{checked.storage}/{checked.name}"
    there = study_store(checked).names()
    labelled, external = (name in there for name in ("pseudo_labels", "core_set"))
    console.print(f"finished in {duration(time.monotonic() - started)}; everything is in {folder}:")
    for name, what in (
        ("results.md", "the table above; results.csv for programs"),
        ("systems/<row>/", "challenge files, decisions, official_result.csv and thresholds of each row"),
        ("scores.parquet", "every member's score of every clip at every checkpoint"),
        ("members/", "checkpoints and backends; reused by the next run"),
        *([("pseudo_labels/", "labels of machines without attributes, with pictures")] if labelled else []),
        *(
            [("core_set/", "the external clips that were chosen, with their audio; summary.json, problems.csv")]
            if external
            else []
        ),
    ):
        console.print(f"  {name:<16} {what}")
    console.print("next:")
    row = max(outcome.results.systems, key=lambda system: system.official or 0.0)
    best, machine = row.name, row.challenge["machine"][0] if len(row.challenge) else "NAME"
    for hint in (
        f"asd report {folder}   (one page: scores, seeds, members, clips to listen to)",
        f"asd compare {folder}",
        f"asd evaluate {folder}/systems/{best} --truth {folder}/clips.parquet",
        f"asd score YOUR.wav --machine {machine} --model {folder}/systems/{best}",
        f"asd run {study} {' '.join([*(overrides or []), 'name=my-study'])} recipe.learning_rate=0.0005",
        outcome.tracking_page,
    ):
        console.print(f"  {hint}", soft_wrap=True)
