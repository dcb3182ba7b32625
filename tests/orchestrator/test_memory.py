"""What is freed goes back when it is asked for."""

import os
import subprocess
import sys
from pathlib import Path

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


MEMBERS = """
import ctypes, sys
from pathlib import Path
from orchestrator.bench.whole import write_study
from orchestrator.loading import load_study
from orchestrator.single import train_single

def resident():
    lib, size = ctypes.CDLL(None), ctypes.c_size_t
    lib.mallctl(b"epoch", None, None, ctypes.byref(ctypes.c_uint64(1)), size(8))
    value = size(0)
    assert lib.mallctl(b"stats.resident", ctypes.byref(value), ctypes.byref(size(8)), None, size(0)) == 0
    return value.value / 2**20

study = load_study(write_study(Path(sys.argv[1]), 256), [])
for seed in range(2):
    seen = []
    train_single(study, "mixup", seed, "cpu", 1, lambda stage, clips: seen.append(resident()))
    print(max(seen))
"""


def test_the_second_member_needs_no_more_memory_than_the_first(tmp_path: Path) -> None:
    """What one member gave back is not the reason to take new pages at every step of the next."""
    environment = {**os.environ, **worker_environment(), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", MEMBERS, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    first, second = map(float, done.stdout.split())
    assert second < 1.2 * first


def test_other_allocators_are_left_alone() -> None:
    give_back_freed_memory()
