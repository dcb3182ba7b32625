"""Studies as runs leave them, each written once a session."""

from pathlib import Path

import pytest
from report_world import write_study

from orchestrator.report.contents import Contents, read_contents
from orchestrator.storage import Store

ODD = ("<script>alert(1)<", "pump & \"co'")  # machines are called as users like


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("finished"), machines=ODD)


@pytest.fixture(scope="session")
def contents(finished: Path) -> Contents:
    return read_contents(Store.at(finished))


@pytest.fixture(scope="session")
def blind(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("blind"), truth=False)


@pytest.fixture(scope="session")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("begun"), finished=False)
