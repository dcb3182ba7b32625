"""Clips of many requests in one call of the networks: a batch is what has come in while the last one was computed.

Ray Serve's own `serve.batch` closes a batch when a few milliseconds are over, also where the networks are still busy:
under load its batches held one or two clips, and one alone costs six times as much as one of sixteen.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


class Batcher(Generic[Item, Outcome]):
    """Calls `work` with at most `most` items at a time, one call after the other. Belongs to one event loop."""

    def __init__(self, work: Callable[[Sequence[Item]], Awaitable[Sequence[Outcome]]], most: int) -> None:
        self.work, self.most = work, most
        self.waiting: deque[tuple[Item, asyncio.Future[Outcome]]] = deque()
        self.running: asyncio.Task[None] | None = None

    async def __call__(self, item: Item) -> Outcome:
        """The item's outcome; cancelling takes it out of the queue."""
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.waiting.append((item, future))
        if self.running is None or self.running.done():
            self.running = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        while batch := self._next():
            items, futures = zip(*batch, strict=True)
            try:
                outcomes = await self.work(items)
            except Exception as error:  # noqa: BLE001 it goes to those who wait
                for future in futures:
                    if not future.done():
                        future.set_exception(error)
                continue
            for future, outcome in zip(futures, outcomes, strict=True):
                if not future.done():
                    future.set_result(outcome)

    def _next(self) -> list[tuple[Item, asyncio.Future[Outcome]]]:
        batch: list[tuple[Item, asyncio.Future[Outcome]]] = []
        while self.waiting and len(batch) < self.most:
            entry = self.waiting.popleft()
            if not entry[1].done():  # done: nobody waits for it any more
                batch.append(entry)
        return batch
