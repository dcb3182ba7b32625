"""Which code made a result."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PROVENANCE = "provenance.json"  # in a study's folder: what its last run was made by
CODE_VERSION = "ASD_CODE_VERSION"
PACKAGES = ("asd-orchestrator", "torch", "torchaudio", "ray", "mlflow", "numpy", "scipy", "scikit-learn", "pyarrow")


def code_version() -> str:
    """The git commit of this source tree, marked where it was changed since; "unknown" outside a checkout.

    A job of a cluster has no checkout: `CODE_VERSION` there says what its sender's was.
    """
    if told_by_sender := os.environ.get(CODE_VERSION):
        return told_by_sender
    here = Path(__file__).parent
    try:
        told = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return told.stdout.strip() or "unknown"


def program() -> dict[str, str]:
    """The commit, Python and the packages that decide a figure, with their versions."""
    return {"git commit": code_version(), "Python": platform.python_version()} | {
        name: _version(name) for name in PACKAGES
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
