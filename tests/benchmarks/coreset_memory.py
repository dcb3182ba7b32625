"""Does the memory of core-set selection grow with the number of external clips? Prints a table of peaks.

    python tests/benchmarks/coreset_memory.py [CLIPS [FACTOR ...]]       default: 128 clips, factors 1 4 16

Clips are 10 s of noise (WAV, 16 kHz, one class), h is three untrained extractors of one branch, two scorers on two
CPUs. PSS counts shared pages (the object store) in parts, USS counts what a process owns alone.
"""

import io
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

CLIPS_A_SHARD = 128
SECONDS = 10
FAN = "/m/02x984l"
MB = 1 << 20


def write_shards(folder: Path, clips: int) -> None:
    """Shards of 128 clips, each one row group, as AudioSet's public copies have them."""
    from orchestrator.data.synth.external import SCHEMA
    from orchestrator.data.synth.faults import encode

    rng = np.random.default_rng(0)
    for first in range(0, clips, CLIPS_A_SHARD):
        rows = [
            {
                "video_id": f"v{number:08d}",
                "audio": {"bytes": encode(rng.normal(0, 0.1, SECONDS * 16000), 16000), "path": None},
                "labels": [FAN],
                "human_labels": [],
            }
            for number in range(first, min(clips, first + CLIPS_A_SHARD))
        ]
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), folder / f"{first:08d}.parquet")


def make_chooser(folder: Path) -> Any:
    """Three members with random weights and random references of two machines."""
    import torch

    from orchestrator.external_scoring import Chooser
    from orchestrator.members import checkpoint_name
    from orchestrator.recipes import ExtractorRecipe, StftBranchConfig
    from orchestrator.storage import Store
    from orchestrator.trainees.extractor import build_extractor

    recipe = ExtractorRecipe(
        clip_seconds=SECONDS, branches=(StftBranchConfig(kind="stft", n_fft=1024),), epochs=1, checkpoints=(1,)
    )
    stores = [Store.at(folder / f"member{seed}") for seed in range(3)]
    for seed, store in enumerate(stores):
        torch.manual_seed(seed)
        weights, references = io.BytesIO(), io.BytesIO()
        torch.save({"model": build_extractor(recipe).state_dict()}, weights)
        rng = np.random.default_rng(seed)
        np.savez(references, **{f"{m}/00/1": rng.normal(size=(16, 128)).astype(np.float32) for m in ("fan", "saw")})
        store.write(checkpoint_name(1), weights.getvalue())
        store.write("backends_key.npz", references.getvalue())
    return Chooser(tuple(stores), recipe, 1, "key")


class Peaks:
    """The largest memory seen of the driver, of one process of each kind of worker, and of the object store."""

    def __init__(self) -> None:
        self.mb: defaultdict[str, float] = defaultdict(float)
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self.ended.wait(0.25):
            self._see("shared memory", shutil.disk_usage("/dev/shm").used)  # Ray's object store is nearly all of it
            for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
                try:
                    self._see_process(process)
                except psutil.Error:
                    continue  # it ended while we looked

    def _see_process(self, process: psutil.Process) -> None:
        line = " ".join(process.cmdline())
        kind = "driver" if process.pid == psutil.Process().pid else "scorer" if "Scorer" in line else ""
        kind = kind or ("decoder" if "_decode_shards" in line else "")
        if kind:
            memory = process.memory_full_info()
            self._see(f"{kind} USS", memory.uss)
            self._see(f"{kind} PSS", memory.pss)

    def _see(self, what: str, size: float) -> None:
        self.mb[what] = max(self.mb[what], size / MB)


def measure(place: str, clips: int) -> None:
    """Run one selection and print one line of the table."""
    import ray

    from orchestrator.config import CoreSetConfig, ExternalSource
    from orchestrator.coreset import choose_core_set
    from orchestrator.data.audioset import find_shards
    from orchestrator.runtime import Slots
    from orchestrator.storage import Store

    root = Path(place)
    chooser = make_chooser(root)
    config = CoreSetConfig(sources=(ExternalSource(parquet=str(root / "external")),), group="g", most=10)
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=str(root / "r"))
    peaks, started = Peaks(), time.perf_counter()
    peaks.thread.start()
    result = choose_core_set(
        config=config,
        shards=find_shards(config),
        chooser=chooser,
        original={"fan": np.array([2.0]), "saw": np.array([2.0])},
        store=Store.at(root / "store"),
        slots=Slots(2, 1.0, 0.0),
    )
    seconds = time.perf_counter() - started
    peaks.ended.set()
    ray.shutdown()
    assert result.summary["candidates"]["scored"] == clips
    print(f"{clips:8d} {seconds:8.1f} " + " ".join(f"{peaks.mb[column]:12.0f}" for column in COLUMNS), flush=True)


COLUMNS = (*(f"{kind} {size}" for kind in ("driver", "decoder", "scorer") for size in ("USS", "PSS")), "shared memory")


def main() -> None:
    """Measure each size in a process of its own."""
    base, *factors = [int(argument) for argument in sys.argv[1:]] or [128]
    print(f"{'clips':>8} {'seconds':>8} " + " ".join(f"{column:>12}" for column in COLUMNS) + "   (MB)", flush=True)
    for factor in factors or [1, 4, 16]:
        with tempfile.TemporaryDirectory(prefix="b", dir="/tmp", ignore_cleanup_errors=True) as place:
            (Path(place) / "external").mkdir()
            write_shards(Path(place) / "external", base * factor)
            code = f"import coreset_memory; coreset_memory.measure({place!r}, {base * factor})"
            subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, check=True)


if __name__ == "__main__":
    main()
