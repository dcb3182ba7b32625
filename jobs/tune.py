"""`asd tune`: search for the best recipe, or go on with a search."""

import time
from pathlib import Path
from typing import Annotated

import typer

from jobs.terminal import terminal


def tune(
    search: Annotated[Path, typer.Argument(help="search file, for example configs/searches/tmn_clip_length.yaml")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="key=value ...: the search's fields (trials=20), or its study's (data.root=DIR)"),
    ] = None,
) -> None:
    """Try recipes with Ray Tune; run it again to go on after any interruption, or with more trials to extend it."""
    from orchestrator.display import duration
    from orchestrator.tuning.config import read_search
    from orchestrator.tuning.display import SearchDisplay
    from orchestrator.tuning.outcome import BEST, outcome_table, whole_study
    from orchestrator.tuning.search import run_search

    started = time.monotonic()
    console = terminal()
    checked = read_search(search, overrides or [])
    outcome = run_search(checked, search, SearchDisplay(console))
    console.print(outcome_table(outcome))
    if outcome.agreement is not None:
        console.print(f"label_free against official: rank correlation {outcome.agreement:.2f} (1: the same order)")
    for field, weight in outcome.importance.items():
        console.print(f"  {field}: {100 * weight:.0f} % of the differences (fANOVA)")
    folder = outcome.store.uri
    console.print(f"finished in {duration(time.monotonic() - started)}; everything is in {folder}:", soft_wrap=True)
    for name, what in (
        ("trials.csv", "every trial with its figures"),
        (BEST, "the best recipe as a study"),
        ("members/", "checkpoints of all trials, which `asd run` of the best recipe takes"),
    ):
        console.print(f"  {name:<12} {what}")
    again = " ".join(["asd tune", str(search), *(o for o in overrides or [] if not o.startswith("trials="))])
    console.print("next:")
    for hint in (
        f"asd run {folder}/{BEST}",
        *([f"{again} trials={checked.total + 10}   (10 more trials)"] if checked.method != "grid" else []),
        f"asd run {' '.join(whole_study(outcome))}   (the same in a study of more groups)",
        outcome.tracking_page,
    ):
        console.print(f"  {hint}", soft_wrap=True)
