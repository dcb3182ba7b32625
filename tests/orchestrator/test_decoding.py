"""Decoding on Ray: every file read once, faults told by name, and waveforms that workers share instead of copying."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.compute as pc
import pytest
import ray
import soundfile

from orchestrator.data.clips import CLIP_SCHEMA, read_clips
from orchestrator.data.dcase import find_clips
from orchestrator.data.packing import Part
from orchestrator.decoding import Decoded, decode_on_ray

pytestmark = pytest.mark.ray

MACHINES = ("fan", "pump")
CLIPS_A_MACHINE = 6
SAMPLES = 8_400_000  # 525 s a clip: 12 clips are 202 MB
MEGABYTE = 1_000_000


@pytest.fixture(scope="module", autouse=True)
def local_ray() -> Iterator[None]:
    """A Ray of two CPUs; its folder has a short name because socket paths are limited to 107 bytes."""
    if ray.is_initialized():
        yield
        return
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as folder:
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=600 * MEGABYTE,
            _temp_dir=folder,
        )
        yield
        ray.shutdown()


def name(index: int) -> str:
    return f"section_00_source_train_normal_{index:04d}_n_A.wav"


@pytest.fixture(scope="module")
def long_clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 200 MB of noise, each clip with a level of its own."""
    root = tmp_path_factory.mktemp("long")
    noise = np.random.default_rng(0).integers(-1000, 1000, SAMPLES).astype(np.int16)
    for place, machine in enumerate(MACHINES):
        (root / machine / "train").mkdir(parents=True)
        for index in range(CLIPS_A_MACHINE):
            soundfile.write(
                root / machine / "train" / name(index), noise + place * 100 + index, 16000, subtype="PCM_16"
            )
    return root


@pytest.fixture(scope="module")
def decoded(long_clips: Path) -> Decoded:
    return decode_on_ray(find_clips([long_clips]).clips, 0.1)


def test_slots_read_the_waveforms_of_the_object_store_without_a_copy(decoded: Decoded) -> None:
    @ray.remote(num_cpus=1)
    class Slot:  # defined here so that it travels by value: the worker cannot import a test file
        def __init__(self) -> None:
            import torch

            from orchestrator.data.waves import WaveBank

            self.WaveBank, self.torch = WaveBank, torch
            WaveBank([Part(np.ones(9, np.int16), np.array([0, 9]))]).cut(torch.tensor([0]), 9)  # loads all code

        def read_all(self, refs: list[Any]) -> dict[str, Any]:
            self.before = psutil.Process().memory_full_info()
            parts = ray.get(refs)
            self.bank = self.WaveBank(parts)
            rows = self.torch.arange(len(self.bank))
            return {
                "pid": os.getpid(),
                "writeable": any(part.samples.flags.writeable for part in parts),
                "bytes": sum(part.samples.nbytes for part in parts),
                "total": sum(int(samples.sum(dtype=np.int64)) for samples in self.bank.samples),
                "shape": tuple(self.bank.cut(rows, 16000, self.torch.full((len(rows),), 0.5)).shape),
            }

        def memory_mb(self) -> dict[str, float]:
            """How much this process grew: all it sees (rss), and what no other process maps (uss)."""
            after = psutil.Process().memory_full_info()
            return {kind: (getattr(after, kind) - getattr(self.before, kind)) / MEGABYTE for kind in ("rss", "uss")}

    slots = [Slot.remote() for _ in range(2)]  # type: ignore[attr-defined]
    one, other = ray.get([slot.read_all.remote(list(decoded.parts)) for slot in slots])
    # Only now: a shared page counts as a process's own until a second process has mapped it.
    grown = ray.get([slot.memory_mb.remote() for slot in slots])
    noise_total = int(np.random.default_rng(0).integers(-1000, 1000, SAMPLES).astype(np.int16).sum(dtype=np.int64))
    offsets = sum(place * 100 + index for place in range(2) for index in range(CLIPS_A_MACHINE))
    for slot in (one, other):
        assert slot["bytes"] == 2 * len(MACHINES) * CLIPS_A_MACHINE * SAMPLES > 200 * MEGABYTE
        assert slot["total"] == len(MACHINES) * CLIPS_A_MACHINE * noise_total + offsets * SAMPLES  # all was touched
        assert slot["shape"] == (len(MACHINES) * CLIPS_A_MACHINE, 16000)
        assert not slot["writeable"]
    assert one["pid"] != other["pid"]
    for memory in grown:
        assert memory["rss"] > 190, grown  # all of it is mapped in each process ...
        assert memory["uss"] < 20, grown  # ... and belongs to none alone
    for handle in slots:
        ray.kill(handle)


def test_the_driver_gets_tables_and_references_only(decoded: Decoded) -> None:
    assert decoded.clips.schema == CLIP_SCHEMA
    assert decoded.clips["samples"].to_pylist() == [SAMPLES] * len(MACHINES) * CLIPS_A_MACHINE
    assert all(isinstance(part, ray.ObjectRef) for part in decoded.parts)
    assert len(decoded.parts) == len(MACHINES)


def test_parts_hold_the_usable_rows_in_their_order(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for machine in ("pump", "fan"):  # found in alphabetical order, whatever the order of writing
        (tmp_path / machine / "train").mkdir(parents=True)
        for index in range(3):
            wave = rng.integers(-9000, 9000, 3200 + 100 * index).astype(np.int16)
            soundfile.write(tmp_path / machine / "train" / name(index), wave, 16000, subtype="PCM_16")
    (tmp_path / "fan" / "train" / name(1)).write_bytes(b"")
    found = find_clips([tmp_path]).clips
    decoded = decode_on_ray(found, 0.1)
    table, waves = read_clips(found, 0.1)
    assert decoded.clips.equals(table)
    assert pc.sum(pc.equal(table["problem"], "empty file")).as_py() == 1
    usable = decoded.usable()["clip_id"].to_pylist()
    assert usable == [
        f"{m}/train/{name(i)[:-4]}" for m, i in (("fan", 0), ("fan", 2), *(("pump", i) for i in range(3)))
    ]
    parts: list[Part] = ray.get(decoded.parts)
    assert [len(part.offsets) - 1 for part in parts] == [2, 3]
    clips = [part.samples[a:b] for part in parts for a, b in zip(part.offsets, part.offsets[1:], strict=False)]
    for clip, wave in zip(clips, (wave for wave in waves if len(wave)), strict=True):
        np.testing.assert_array_equal(clip, wave)


def test_a_machine_whose_clips_are_all_broken_is_an_empty_part(tmp_path: Path) -> None:
    for machine, content in (("fan", b""), ("pump", b"no sound")):
        (tmp_path / machine / "train").mkdir(parents=True)
        (tmp_path / machine / "train" / name(0)).write_bytes(content)
    decoded = decode_on_ray(find_clips([tmp_path]).clips, 0.1)
    assert len(decoded.usable()) == 0
    assert [len(part.samples) for part in ray.get(decoded.parts)] == [0, 0]
    assert all(decoded.clips["problem"].to_pylist())
