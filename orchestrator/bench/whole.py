"""A whole small study: what the orchestrator takes beyond its trainings, and beyond a loop written by hand."""

import importlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from orchestrator.bench.memory import PeakMemory
from orchestrator.bench.rounds import farm, rate_of, together
from orchestrator.config import Study
from orchestrator.data.synth import FactoryOptions, make_factory
from orchestrator.errors import ResourceError
from orchestrator.loading import load_study, study_store
from orchestrator.members import DONE
from orchestrator.mlflow_client import import_mlflow
from orchestrator.runtime import ray_session, worker_environment
from orchestrator.single import train_single
from orchestrator.study import run_study

STUDY = """
name: bench
data: {root: ROOT/factory}
storage: ROOT/results
seeds: 4
recipe: {clip_seconds: CLIP_SECONDS, batch_size: BATCH, checkpoints: [EPOCHS], epochs: EPOCHS}
backend: {clusters: 4}
groups: {mixup: {}}
systems: {mixup: {groups: [mixup]}}
"""
CLIP_SECONDS, BATCH = 4.5, 8


class Whole(NamedTuple):
    """Seconds; of the study without `ray.init` and this process's imports.

    The slots' processes start and import once, and so do those of the loop written by hand: both are counted.
    """

    study: float
    trainings: float  # the members' epochs, divided by the slots
    by_hand: float
    members: int
    slots: int
    memory_mib: float  # of the study, with Ray

    @property
    def beyond_trainings(self) -> float:
        """Everything that is not an epoch, as a share of the epochs."""
        return self.study / self.trainings - 1

    @property
    def beyond_hand(self) -> float:
        """What the orchestrator costs, as a share of the same work written as a loop."""
        return self.study / self.by_hand - 1


class _Quiet:
    """A view that shows nothing."""

    def __getattr__(self, name: str) -> object:
        return lambda *given: None


def clips_per_second(slots: int, seconds: float) -> float:
    """What one of so many slots trains here while the others do the same: how many epochs make a member of a minute."""
    tasks = farm("train", slots, clip_seconds=CLIP_SECONDS, batch=BATCH, clips=8 * BATCH, seconds=seconds)
    return rate_of(together(tasks)) / slots


def write_study(folder: Path, member_clips: float) -> Path:
    """A factory of two machines and a study of four members, each trained on about so many clips, repeats counted."""
    options = FactoryOptions(
        machines=("fan", "gearbox"),
        train_source=30,
        train_target=2,
        test_per_condition=4,
        seconds=CLIP_SECONDS,
        external=0,
    )
    make_factory(folder / "factory", options)
    epochs = max(1, round(member_clips / 64))
    sizes = {"ROOT": folder, "EPOCHS": epochs, "CLIP_SECONDS": CLIP_SECONDS, "BATCH": BATCH}
    text = STUDY
    for name, value in sizes.items():
        text = text.replace(name, str(value))
    path = folder / "bench.yaml"
    path.write_text(text)
    return path


def measure_whole(folder: Path, member_clips: float, slots: int) -> Whole:
    """Run the study, then the same members by hand: one process a slot, as many threads and the same allocator."""
    path = write_study(folder, member_clips)
    study = load_study(path, [f"cluster.slots={slots}"])
    importlib.import_module("orchestrator.stages")  # not measured: a run imports while Ray starts
    import_mlflow()
    with ray_session(study.cluster), PeakMemory() as peak:
        began = time.perf_counter()
        run_study(study, _Quiet())  # type: ignore[arg-type]
        seconds = time.perf_counter() - began
    return Whole(seconds, _epochs(study) / slots, _by_hand(path, study, slots), len(study.seeds), slots, peak.mib)


def _epochs(study: Study) -> float:
    members = study_store(study).child("members")
    histories = [members.child(name).read_json(DONE)["history"] for name in members.names()]
    return float(sum(row["seconds"] for history in histories for row in history))


def _by_hand(path: Path, study: Study, slots: int) -> float:
    environment = {**os.environ, **worker_environment(), "CUDA_VISIBLE_DEVICES": ""}
    began = time.perf_counter()
    command = [sys.executable, "-m", "orchestrator.bench.whole", str(path)]
    shares = [map(str, study.seeds[slot::slots]) for slot in range(slots)]
    running = [subprocess.Popen([*command, str(slot), *seeds], env=environment) for slot, seeds in enumerate(shares)]
    codes = [process.wait() for process in running]
    if any(codes):
        raise ResourceError("the loop written by hand failed; its message is above")
    return time.perf_counter() - began


def _loop(path: str, slot: str, *seeds: str) -> None:
    """Train and score some members one after another, without Ray."""
    study = load_study(path, [f"name=by-hand-{slot}"])
    for seed in seeds:
        train_single(study, "mixup", int(seed), "cpu", 1, lambda stage, clips: None)


if __name__ == "__main__":
    _loop(*sys.argv[1:])
