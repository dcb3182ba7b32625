"""The way to an MLflow store: its import, our settings, its client, and what a store can raise.

Imports mlflow only when asked: it takes 2 s.
"""

import importlib
import os
import sys
from pathlib import Path
from typing import Any

DEFAULTS = {  # in force unless the user's environment says otherwise
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # MLflow's own 7 retries wait for minutes on a dead server
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # seconds
}


def apply_defaults() -> None:
    """MLflow's settings that are ours where the environment has none; MLflow reads some when it is imported."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)


def import_mlflow() -> None:
    """Import MLflow, which takes 2 s; a run does it while it waits for something else."""
    apply_defaults()
    importlib.import_module("mlflow")


def connect(uri: str) -> Any:
    """MLflow's client; the folder of an SQLite file is made here, its tables by the client's first request."""
    import_mlflow()
    if uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///").partition("?")[0]).parent.mkdir(parents=True, exist_ok=True)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def failures() -> tuple[type[BaseException], ...]:
    """What a server, a database, an artifact store or a missing client of one can raise; never our own mistakes."""
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    s3 = {"botocore.exceptions": ("BotoCoreError", "ClientError"), "boto3.exceptions": ("Boto3Error",)}
    loaded = [getattr(sys.modules[module], name) for module in s3 if module in sys.modules for name in s3[module]]
    return (MlflowException, RequestException, SQLAlchemyError, OSError, ImportError, *loaded)
