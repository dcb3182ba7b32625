"""Batches that are cut ahead for a GPU: the same as those cut at once, and no buffer is touched while it is in use."""

import threading
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from orchestrator.data.ahead import Gpu, Lane
from orchestrator.data.packing import pack
from orchestrator.data.waves import WaveBank

SAMPLES = 8


class Wanted(NamedTuple):
    rows_B: torch.Tensor
    position_B: torch.Tensor


class FakeEvent:
    """Done as soon as it is recorded, unless its stream is held."""

    def __init__(self) -> None:
        self.stream: Any = None

    def record(self, stream: "FakeStream") -> None:
        stream.log.append(("record", stream.name, id(self)))
        self.stream = stream

    def synchronize(self) -> None:
        if self.stream is not None:
            assert self.stream.free.wait(10)


class FakeStream:
    """Notes what is asked of it; `free` says whether what it was given is done."""

    def __init__(self, name: str, log: list[tuple]) -> None:
        self.name, self.log, self.free = name, log, threading.Event()
        self.free.set()

    def wait_event(self, event: FakeEvent) -> None:
        self.log.append(("wait", self.name, id(event)))

    def wait_stream(self, other: "FakeStream") -> None:
        self.log.append(("after", self.name, other.name))

    def synchronize(self) -> None:
        self.log.append(("synchronize", self.name))
        assert self.free.wait(10)


def fake_gpu() -> tuple[Gpu, list[tuple]]:
    log: list[tuple] = []
    streams = FakeStream("copying", log), FakeStream("computing", log)
    return Gpu(torch.device("cpu"), *streams, FakeEvent, lambda stream: nullcontext(), False), log


def bank() -> WaveBank:
    random = np.random.default_rng(0)
    return WaveBank([pack([random.integers(-999, 999, n).astype(np.int16) for n in (3, 8, 20, 13, 9)])])


def wanted(sizes: tuple[int, ...]) -> list[Wanted]:
    random = torch.Generator().manual_seed(1)
    return [Wanted(torch.randint(5, (n,), generator=random), torch.rand(n, generator=random)) for n in sizes]


def cut_by(made: WaveBank, lane: Lane, batches: list[Wanted]) -> Iterator[tuple[Wanted, torch.Tensor]]:
    return lane.deliver(iter(batches), lambda one, wave: made._cut_into(wave, one.rows_B, one.position_B))


@pytest.mark.parametrize("sizes", [(), (3,), (4, 4), (4, 4, 4, 4, 1), (4, 2, 5)])
def test_batches_are_those_that_are_cut_at_once(sizes: tuple[int, ...]) -> None:
    made, batches = bank(), wanted(sizes)
    lane = Lane(5, SAMPLES, fake_gpu()[0])
    found = [(one, wave.clone()) for one, wave in cut_by(made, lane, batches)]
    assert [id(one) for one, _ in found] == [id(one) for one in batches]
    for one, wave_BT in found:
        assert torch.equal(wave_BT, made.cut(one.rows_B, SAMPLES, one.position_B))


def test_on_a_cpu_nothing_is_cut_ahead() -> None:
    made, batches, drawn = bank(), wanted((4, 4, 2)), []

    def draws() -> Iterator[Wanted]:
        for one in batches:
            drawn.append(one)
            yield one

    for number, (one, wave_BT) in enumerate(made.stream(draws(), SAMPLES, 4), 1):
        assert len(drawn) == number
        assert torch.equal(wave_BT, made.cut(one.rows_B, SAMPLES, one.position_B))


def test_a_host_buffer_waits_for_its_last_copy() -> None:
    """While copies are held up, the third batch (in the first one's buffer) is not written; then it is."""
    gpu, _ = fake_gpu()
    made, batches, lane, written = bank(), wanted((4, 4, 4, 4)), Lane(4, SAMPLES, gpu), []
    third = threading.Event()

    def cut(one: Wanted, wave_BT: NDArray[np.int16]) -> None:
        made._cut_into(wave_BT, one.rows_B, one.position_B)
        written.append(len(written))
        if len(written) == 3:
            third.set()

    gpu.copying.free.clear()
    running = lane.deliver(iter(batches), cut)
    next(running)
    next(running)  # has started the third
    assert not third.wait(0.2)
    assert written == [0, 1]
    gpu.copying.free.set()
    assert third.wait(10)
    assert len(list(running)) == 2


def test_a_copy_waits_for_the_last_use_and_a_use_for_its_copy() -> None:
    gpu, log = fake_gpu()
    lane = Lane(4, SAMPLES, gpu)
    assert log == [("after", "copying", "computing")]
    list(cut_by(bank(), lane, wanted((4, 4, 4))))
    for number in range(3):
        copied, used = (id(event) for event in (lane.buffers[number % 2].copied, lane.buffers[number % 2].used))
        mine = [entry for entry in log if entry[-1] in (copied, used)][4 * (number // 2) :][:4]
        assert mine == [
            ("wait", "copying", used),
            ("record", "copying", copied),
            ("wait", "computing", copied),
            ("record", "computing", used),
        ]


def test_an_epoch_that_is_broken_off_leaves_no_copy_behind() -> None:
    gpu, log = fake_gpu()
    running = cut_by(bank(), Lane(4, SAMPLES, gpu), wanted((4, 4, 4)))
    next(running)
    running.close()  # type: ignore[attr-defined]
    assert log[-1] == ("synchronize", "copying")
    assert not any(thread.name.startswith("cut") for thread in threading.enumerate())


def test_what_goes_wrong_in_the_thread_is_raised() -> None:
    def cut(one: Wanted, wave_BT: NDArray[np.int16]) -> None:
        raise IndexError("no such row")

    with pytest.raises(IndexError, match="no such row"):
        list(Lane(4, SAMPLES, fake_gpu()[0]).deliver(wanted((4,)), cut))
