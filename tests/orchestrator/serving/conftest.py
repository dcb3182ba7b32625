"""A finished study and a model of one of its systems."""

from pathlib import Path

import pytest
from serving_world import once

from orchestrator.serving.bundle import write_bundle
from orchestrator.serving.from_study import bundle_of_study


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return once(lambda: tmp_path_factory.mktemp("serving"))


@pytest.fixture(scope="session")
def exported(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The system of two groups as a folder."""
    return write_bundle(bundle_of_study(study, "both"), tmp_path_factory.mktemp("exported") / "both")
