"""The queue that hands members to slots. Its process imports nothing heavy: members travel through it as bytes."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import ray


class Ticket(NamedTuple):
    """A member on its way to a slot."""

    hash: str
    title: str
    member: bytes  # cloudpickled by the driver, for the slots alone


class Status(NamedTuple):
    """A snapshot for the display: what each slot does, what is finished, and how many clips went through so far."""

    slots: dict[int, dict[str, Any]]
    finished: list[str]
    failed: dict[str, str]
    clips: float


@ray.remote(num_cpus=0)
class MemberQueue:
    """Hands out members, and hands out again those whose slot died."""

    def __init__(self, tickets: Sequence[Ticket]) -> None:
        self.waiting = list(tickets)
        self.generation = ""
        self.in_flight: dict[int, Ticket] = {}
        self.slots: dict[int, dict[str, Any]] = {}
        self.finished: list[str] = []
        self.failed: dict[str, str] = {}
        self.clips = 0.0

    def take(self, generation: str, slot: int) -> Ticket | None:
        """The next member for a slot. A new generation means that all slots were restarted: theirs comes first."""
        if generation != self.generation:
            self.generation = generation
            self.waiting = [*self.in_flight.values(), *self.waiting]
            self.in_flight, self.slots = {}, {}
        if not self.waiting:
            self.slots.pop(slot, None)
            return None
        self.in_flight[slot] = self.waiting.pop(0)
        return self.in_flight[slot]

    def done(self, slot: int, error: str | None = None) -> None:
        ticket = self.in_flight.pop(slot)
        if error is None:
            self.finished.append(ticket.hash)
        else:
            self.failed[ticket.hash] = f"{ticket.title}: {error}"

    def progress(self, slot: int, doing: dict[str, Any], clips: float) -> None:
        self.slots[slot] = doing
        self.clips += clips

    def status(self) -> Status:
        return Status(self.slots, self.finished, self.failed, self.clips)
