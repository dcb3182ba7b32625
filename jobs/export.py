"""`asd export`: a finished study's system as a model that scores recordings anywhere."""

import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from jobs.terminal import terminal


def export(
    study: Annotated[str, typer.Argument(help="a study's folder such as results/demo, or its file")],
    system: Annotated[str, typer.Argument(help="row of the results, for example mr-sl")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value ... that the study was run with")] = None,
    out: Annotated[Path | None, typer.Option(help="write a plain folder instead of registering")] = None,
    tracking: Annotated[str | None, typer.Option(help="MLflow store; default: the study's own")] = None,
) -> None:
    """Export a system: all members' weights, references and thresholds, as an MLflow model with alias champion."""
    from orchestrator.serving.export import export_to_mlflow, find_study

    console = terminal()
    folder = find_study(study, overrides or [])
    if out is not None:
        from orchestrator.serving.bundle import write_bundle
        from orchestrator.serving.from_study import bundle_of_study

        written = write_bundle(bundle_of_study(folder, system), out)
        console.print(f"the model is in {written}", soft_wrap=True)
        console.print(f"next: asd score RECORDINGS --model {out}", soft_wrap=True)
        return
    model = export_to_mlflow(folder, system, tracking)
    console.print(f"registered {model.name} version {model.version}, alias champion, in {model.tracking_uri}")
    console.print("next:")
    uri, serve = model.tracking_uri, f"mlflow models serve -m {model.address} --env-manager local"
    console.print(f"  asd score RECORDINGS --model {model.address} --tracking {uri}", soft_wrap=True)
    console.print(f"  MLFLOW_TRACKING_URI={uri} {path_hint()}{serve}", soft_wrap=True)


def path_hint() -> str:
    """What the server's own command, uvicorn, needs to be found where this environment is not activated."""
    return "" if shutil.which("uvicorn") else f"PATH={Path(sys.executable).parent}:$PATH "
