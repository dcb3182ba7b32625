"""How much a client may ask for at a time, and the gate that keeps all clients together within memory."""

from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import BaseModel, ConfigDict, Field, model_validator

from orchestrator.serving.web.refusals import Refused

MB = 1 << 20


class Limits(BaseModel):
    """Bounds of one request, and of all that are open."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_file_mb: float = Field(64, gt=0, le=1024, description="of one recording as it is sent")
    max_request_mb: float = Field(128, gt=0, le=4096, description="of all recordings of a request together")
    max_files: int = Field(32, ge=1, le=1000, description="recordings in a request")
    max_seconds: float = Field(600, gt=0, le=3600, description="of a recording; 10 minutes are 19 MB decoded")
    max_queue: int = Field(256, ge=1, le=10_000, description="requests being received or scored; others get a 503")
    timeout_seconds: float = Field(60, gt=0, le=3600, description="of a request, from its first byte to its answer")

    @model_validator(mode="after")
    def _consistent(self) -> "Limits":
        if self.max_request_mb < self.max_file_mb:
            raise ValueError(f"max_request_mb {self.max_request_mb:g} is less than max_file_mb {self.max_file_mb:g}")
        return self

    @property
    def file_bytes(self) -> int:
        return int(self.max_file_mb * MB)

    @property
    def request_bytes(self) -> int:
        return int(self.max_request_mb * MB)

    @property
    def held_bytes(self) -> int:
        """Of all open requests together: two of the largest."""
        return 2 * self.request_bytes


class Gate:
    """Counts open requests and the bytes that they hold; refuses what would be too much, at once and with a 503.

    Belongs to one event loop.
    """

    def __init__(self, most_requests: int, most_bytes: int) -> None:
        self.most_requests, self.most_bytes = most_requests, most_bytes
        self.requests = self.bytes = 0

    @contextmanager
    def enter(self) -> Iterator["Ticket"]:
        """One more open request."""
        if self.requests >= self.most_requests:
            raise Refused(503, f"busy: {self.requests} requests are open; try again soon")
        ticket = Ticket(self)
        self.requests += 1
        try:
            yield ticket
        finally:
            self.requests -= 1
            self.bytes -= ticket.held


class Ticket:
    """An open request's share of the memory."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.held = 0

    def hold(self, size: int) -> None:
        """Take memory for so many bytes more, until the request ends."""
        if self.gate.bytes + size > self.gate.most_bytes:
            raise Refused(503, "busy: open requests hold all the memory set aside for uploads; try again soon")
        self.gate.bytes += size
        self.held += size
