"""A bundle in MLflow's model registry: logged with its code, registered, and called champion.

Besides `tracking` and `pyfunc` the only module that imports mlflow.
"""

import json
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from orchestrator.errors import StorageError, first_line
from orchestrator.mlflow_client import apply_defaults
from orchestrator.serving.bundle import Bundle, write_bundle
from orchestrator.serving.example import example_bytes

ALIAS = "champion"
# What loading and scoring import; neither Ray nor what only studies need.
SCIENCE = ("numpy", "scipy", "scikit-learn", "threadpoolctl", "torch", "torchaudio")
PACKAGES = ("mlflow", "pandas", "pyarrow", "pydantic", "soundfile", *SCIENCE)
CODE = Path(__file__).resolve().parents[2]  # the folder that holds models/ and orchestrator/


class Registered(NamedTuple):
    """A version of a registered model."""

    name: str
    version: str
    tracking_uri: str

    @property
    def address(self) -> str:
        return f"models:/{self.name}@{ALIAS}"


class Home(NamedTuple):
    """Where a study's runs are: store, experiment, folder of a new local experiment, and the runs' identity."""

    tracking_uri: str
    experiment: str
    artifact_root: Path
    identity: str  # empty where the study was never tracked


def register(bundle: Bundle, home: Home) -> Registered:
    """Log a system as an MLflow pyfunc at its own run, register it as asd-<study>-<system>, make it the champion.

    StorageError where the store cannot be reached or written.
    """
    with mlflow_faults(home.tracking_uri) as mlflow, tempfile.TemporaryDirectory(prefix="asd-export-") as folder:
        files = write_bundle(bundle, Path(folder) / "bundle")
        mlflow.set_tracking_uri(home.tracking_uri)
        mlflow.set_registry_uri(home.tracking_uri)
        client = mlflow.MlflowClient()
        run = mlflow.start_run(**_run(client, home, bundle.manifest.system))
        with run, warnings.catch_warnings(record=True):  # it asks for type hints, though the signature is given
            logged = _log(mlflow, bundle, files)
        client.set_registered_model_alias(_name(bundle), ALIAS, logged.registered_model_version)
        for key, value in facts(bundle).items():
            client.set_model_version_tag(_name(bundle), logged.registered_model_version, f"asd.{key}", value)
        return Registered(_name(bundle), str(logged.registered_model_version), home.tracking_uri)


def _name(bundle: Bundle) -> str:
    return f"asd-{bundle.manifest.study}-{bundle.manifest.system}"


def facts(bundle: Bundle) -> dict[str, str]:
    """What a registry should show of a model."""
    manifest = bundle.manifest
    thresholds = {f"{place.machine}/{place.section}": place.threshold for place in manifest.places}
    return {
        "study": manifest.study,
        "system": manifest.system,
        "training_data": manifest.training_data,
        "code": manifest.code,
        "thresholds": json.dumps(thresholds),
        "scores": str(sum(len(member.recipe.checkpoints) for member in manifest.members)),
    }


def _run(client: Any, home: Home, system: str) -> dict[str, str]:
    """The system's run that the study left in MLflow, else a new one: arguments of mlflow.start_run."""
    experiment = client.get_experiment_by_name(home.experiment)
    if experiment is None:
        local = home.tracking_uri.startswith("sqlite:")
        place = (home.artifact_root / home.experiment).absolute().as_uri() if local else None
        return {"experiment_id": client.create_experiment(home.experiment, place), "run_name": f"export {system}"}
    query = f"tags.`asd.identity` = '{home.identity}' and tags.`asd.kind` = 'system' and tags.`asd.name` = '{system}'"
    found = client.search_runs([experiment.experiment_id], query, max_results=1) if home.identity else []
    if found:
        return {"run_id": found[0].info.run_id}
    return {"experiment_id": experiment.experiment_id, "run_name": f"export {system}"}


def _log(mlflow: Any, bundle: Bundle, files: Path) -> Any:
    import pandas as pd
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    columns: list[Any] = [ColSpec("string", "machine"), ColSpec("binary", "audio")]
    columns += [ColSpec("string", "section", required=False)]
    kinds = {"score": "double", "threshold": "double", "decision": "string", "percentile": "double"}
    figures: list[Any] = [ColSpec(kind, name, required=False) for name, kind in kinds.items()]
    figures += [ColSpec("string", "problem")]
    first = bundle.manifest.places[0]
    example = {"machine": [first.machine], "audio": [example_bytes()], "section": [first.section]}
    return mlflow.pyfunc.log_model(
        name="model",
        python_model=str(Path(__file__).with_name("pyfunc.py")),
        artifacts={"bundle": str(files)},
        code_paths=[str(CODE / "models"), str(CODE / "orchestrator")],
        signature=ModelSignature(inputs=Schema(columns), outputs=Schema(figures)),
        input_example=pd.DataFrame(example),
        pip_requirements=[f"{name}=={version(name).split('+')[0]}" for name in PACKAGES],
        registered_model_name=_name(bundle),
        metadata=facts(bundle),
    )


def download(address: str, tracking_uri: str | None) -> Path:
    """The folder of an MLflow model on this machine; its code is not run, only its bundle is read."""
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path('results/mlflow.db').absolute()}"
    database = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and not database.is_file():
        raise StorageError(f"no MLflow database {database}; name one: --tracking sqlite:///results/mlflow.db")
    with mlflow_faults(uri) as mlflow:
        mlflow.set_tracking_uri(uri)
        mlflow.set_registry_uri(uri)
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=address))


@contextmanager
def mlflow_faults(uri: str) -> Iterator[Any]:
    """mlflow, imported quietly; what a store may raise becomes a StorageError."""
    apply_defaults()
    import mlflow
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield mlflow
    except (MlflowException, RequestException, SQLAlchemyError, OSError) as error:
        reason = first_line(error)[:300]
        raise StorageError(f"MLflow at {uri}: {reason}") from error
