"""An HTTP service in this process, without Ray, and clients that send it what they like."""

import asyncio
import http.client
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from orchestrator.serving.bundle import Bundle
from orchestrator.serving.web.app import Service, make_app
from orchestrator.serving.web.clips import Clip, Result
from orchestrator.serving.web.door import Door, listen
from orchestrator.serving.web.guard import Rules
from orchestrator.serving.web.limits import Limits
from orchestrator.serving.web.scoring import ClipScorer

OPEN = Rules(None, True)
BOUNDARY = "boundary"


class LocalBackend:
    """One clip at a time in a thread of this process."""

    def __init__(self, bundle: Path, max_seconds: float = 600.0) -> None:
        self.core = ClipScorer(Bundle.load(bundle).scorer(), max_seconds)
        self.model = self.core.model()
        self.pool = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,))
        self.delay = 0.0
        self.up = True

    async def score(self, clip: Clip) -> Result:
        await asyncio.sleep(self.delay)
        return await asyncio.get_running_loop().run_in_executor(self.pool, self._score, clip)

    async def alive(self) -> bool:
        return self.up

    def _score(self, clip: Clip) -> Result:
        heard = self.core.hear(clip)
        return heard if isinstance(heard, Result) else self.core.judge([heard])[0]


class Reply(NamedTuple):
    """An answer; `json` where it is JSON."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Site(NamedTuple):
    """A running service."""

    port: int
    service: Service

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Reply:
        return ask(self.port, method, path, body, headers)

    def score(self, *files: tuple[str, bytes], headers: dict[str, str] | None = None, **fields: str) -> Reply:
        return score(self.port, *files, headers=headers, **fields)


@contextmanager
def site(backend: Any, limits: Limits | None = None, rules: Rules = OPEN) -> Iterator[Site]:
    """A service on a free port of the loopback."""
    app, service = make_app(limits or Limits(), rules)
    service.backend = backend
    with Door(app, listen("127.0.0.1", 0)) as door:
        yield Site(door.sock.getsockname()[1], service)


def ask(port: int, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Reply:
    """One request over a connection of its own; an iterable body is sent in chunks without a length."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body, headers or {}, encode_chunked=isinstance(body, Iterator))
        answer = connection.getresponse()
        return Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
    finally:
        connection.close()


def form(*files: tuple[str, bytes], **fields: str) -> tuple[bytes, dict[str, str]]:
    """A multipart body and its header."""
    parts = [(f'name="{name}"', value.encode()) for name, value in fields.items()]
    parts += [(f'name="files"; filename="{name}"', data) for name, data in files]
    body = b"".join(
        f"--{BOUNDARY}\r\nContent-Disposition: form-data; {told}\r\n\r\n".encode() + data + b"\r\n"
        for told, data in parts
    )
    return body + f"--{BOUNDARY}--\r\n".encode(), {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


def score(port: int, *files: tuple[str, bytes], headers: dict[str, str] | None = None, **fields: str) -> Reply:
    """Upload some files."""
    body, kind = form(*files, **fields)
    return ask(port, "POST", "/score", body, {**kind, **(headers or {})})
