"""What is freed goes back when it is asked for."""

import os
import subprocess
import sys

from support import ROOT

from orchestrator.memory import give_back_freed_memory
from orchestrator.runtime import worker_environment

SCRIPT = """
import torch
from orchestrator.bench.tasks import memory_mib
from orchestrator.memory import give_back_freed_memory
before = memory_mib("cpu")
tensors = [torch.ones(4 << 20) for _ in range(16)]  # 256 MiB
del tensors
kept = memory_mib("cpu") - before
give_back_freed_memory()
print(kept, memory_mib("cpu") - before)
"""


def test_a_worker_keeps_what_is_freed_until_it_is_told_to_give_it_back() -> None:
    environment = {**os.environ, **worker_environment()}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    kept, left = map(float, done.stdout.split())
    assert kept > 200
    assert left < 50


def test_other_allocators_are_left_alone() -> None:
    give_back_freed_memory()
