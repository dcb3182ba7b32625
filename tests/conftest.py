"""What tests share: the recordings beside the project, a tiny factory, and one local Ray."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from browser import PROGRAMS, Browser
from hypothesis import settings
from support import SHARED

settings.register_profile("fixed", derandomize=True)  # a failure is one for everybody
settings.load_profile("fixed")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
torch.set_num_threads(1)  # as in a slot; two threads on a busy machine wait for each other


@pytest.fixture(scope="session")
def shared() -> Path:
    """The recordings and reference figures beside the project; the test is skipped where they are not."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the recordings in {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = next((found for name in PROGRAMS if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"no browser here: looked for {', '.join(PROGRAMS)}")
    running = Browser(program, tmp_path_factory.mktemp("browser"))
    yield running
    running.close()
