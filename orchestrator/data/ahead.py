"""Batches on their way to a GPU: cut by a thread into two pinned buffers in turn, and copied while the GPU computes.

Shapes: B clips of a batch, T samples.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FULL_SCALE = 32_768.0


class Wanted(Protocol):
    """A batch that is asked for: rows of a bank, and where longer clips are cropped."""

    @property
    def rows_B(self) -> Tensor: ...
    @property
    def position_B(self) -> Tensor: ...


Batch = TypeVar("Batch", bound=Wanted)


class Gpu(NamedTuple):
    """What a lane needs of a GPU."""

    device: torch.device
    copying: Any  # torch.cuda.Stream: copies go here, beside what is computed
    computing: Any  # torch.cuda.Stream: the caller's
    event: Callable[[], Any]  # torch.cuda.Event; one that is waited for without a core
    using: Callable[[Any], Any]  # torch.cuda.stream
    pinned: bool  # host buffers that a GPU reads by itself

    @staticmethod
    def of(device: torch.device) -> "Gpu":
        """With a new stream for copies."""
        streams = torch.cuda.Stream(device), torch.cuda.current_stream(device)
        return Gpu(device, *streams, partial(torch.cuda.Event, blocking=True), torch.cuda.stream, True)


class Buffer:
    """Room for one batch on the host and on the GPU, and the events of its last copy and of its last use."""

    def __init__(self, clips: int, samples: int, gpu: Gpu) -> None:
        self.host_BT = torch.empty(clips, samples, dtype=torch.int16, pin_memory=gpu.pinned)
        self.gpu_BT = torch.empty(clips, samples, dtype=torch.int16, device=gpu.device)
        self.copied, self.used = gpu.event(), gpu.event()  # not recorded yet: nobody waits


class Lane:
    """Two buffers, and who waits for whom: the host for its last copy, a copy for the last use, a use for its copy.

    For one epoch and at most `clips` clips a batch.
    """

    def __init__(self, clips: int, samples: int, gpu: Gpu) -> None:
        self.gpu = gpu
        self.buffers = [Buffer(clips, samples, gpu) for _ in range(2)]
        gpu.copying.wait_stream(gpu.computing)  # whatever had the buffers' memory before may still be computing

    def deliver(
        self, wanted: Iterable[Batch], cut: Callable[[Batch, NDArray[np.int16]], None]
    ) -> Iterator[tuple[Batch, Tensor]]:
        """Each wanted batch with its waveforms (B, T) in [-1, 1); `cut` writes a later one while the caller has it."""
        numbered = enumerate(wanted)
        try:
            with ThreadPoolExecutor(1, "cut") as thread:

                def start() -> tuple[int, Batch, "Future[None]"] | None:
                    # What is wanted is drawn here, by the caller's thread: chance keeps its order.
                    for number, batch in numbered:
                        return number, batch, thread.submit(self._send, number, batch, cut)
                    return None

                coming = start()
                while coming is not None:
                    number, batch, sent = coming
                    sent.result()
                    coming = start()
                    yield batch, self._receive(number, len(batch.rows_B))
        finally:
            self.gpu.copying.synchronize()  # an epoch that was broken off: nothing may write to buffers given back

    def _send(self, number: int, batch: Batch, cut: Callable[[Batch, NDArray[np.int16]], None]) -> None:
        buffer, clips, copying = self.buffers[number % 2], len(batch.rows_B), self.gpu.copying
        buffer.copied.synchronize()
        cut(batch, buffer.host_BT[:clips].numpy())
        with self.gpu.using(copying):
            copying.wait_event(buffer.used)
            buffer.gpu_BT[:clips].copy_(buffer.host_BT[:clips], non_blocking=True)
            buffer.copied.record(copying)

    def _receive(self, number: int, clips: int) -> Tensor:
        buffer, computing = self.buffers[number % 2], self.gpu.computing
        computing.wait_event(buffer.copied)
        wave_BT = buffer.gpu_BT[:clips].float() / FULL_SCALE
        buffer.used.record(computing)
        return wave_BT
