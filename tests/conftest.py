"""What tests share: the recordings beside the project, a tiny factory, and one local Ray."""

import os
from pathlib import Path

import pytest
import torch
from support import SHARED

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
torch.set_num_threads(1)  # as in a slot; two threads on a busy machine wait for each other


@pytest.fixture(scope="session")
def shared() -> Path:
    """The recordings and reference figures beside the project; the test is skipped where they are not."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the recordings in {SHARED}")
    return SHARED
