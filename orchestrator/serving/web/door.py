"""The HTTP server: uvicorn in a thread, with an end to connections that do not ask for anything."""

import asyncio
import ipaddress
import logging
import resource
import socket
import threading
from collections.abc import Callable
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from orchestrator.errors import ResourceError

HEAD_SECONDS = 10.0  # from a connection, or from an answer, to the next complete request line and headers
HEAD_BYTES = 16 << 10
STOP_SECONDS = 10
SPARE_FILES = 256  # of this process besides connections
BACKLOG = 4096


class DoorProtocol(H11Protocol):
    """Closes a connection that does not bring a request in time, however slowly it sends bytes of one."""

    timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_request()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._expect_request()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.timer is not None:
            self.timer.cancel()
        super().connection_lost(exc)

    def _expect_request(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
        self.timer = self.loop.call_later(HEAD_SECONDS, self._close_unless_newer, self.cycle)

    def _close_unless_newer(self, cycle: object) -> None:
        if self.cycle is cycle and not self.transport.is_closing():
            self.transport.close()


class Door:
    """A server on a socket, in a thread of its own: Ray wants the main one."""

    def __init__(self, app: Callable[..., Any], sock: socket.socket) -> None:
        for name, level in (("uvicorn.error", logging.ERROR), ("python_multipart", logging.CRITICAL)):
            logging.getLogger(name).setLevel(level)  # what clients send wrongly is theirs
        self.sock = sock
        config = uvicorn.Config(
            app, http=DoorProtocol, ws="none", lifespan="off", loop="asyncio", log_config=None, access_log=False,
            server_header=False, proxy_headers=False, h11_max_incomplete_event_size=HEAD_BYTES, backlog=BACKLOG,
            timeout_keep_alive=5, timeout_graceful_shutdown=STOP_SECONDS, limit_concurrency=most_connections(),
        )  # fmt: skip
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self._serve, name="door", daemon=True)

    def _serve(self) -> None:
        asyncio.run(self.server.serve(sockets=[self.sock]))

    def __enter__(self) -> "Door":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self.thread.join(STOP_SECONDS + 10)
        self.sock.close()

    @property
    def address(self) -> str:
        host, port = self.sock.getsockname()[:2]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def most_connections() -> int:
    """As many as this process may open files, less its own; the limit is raised as far as it goes."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    hard = 65_536 if hard == resource.RLIM_INFINITY else hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    return max(64, hard - SPARE_FILES)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; ResourceError where that is not possible."""
    try:
        family, *_, address = _resolve(host, port)[0]
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(BACKLOG)  # clients wait from now on
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ResourceError(f"cannot listen on {host}:{port}: {reason}; name another --host or --port") from None
    return sock


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens on a host."""
    try:
        return all(ipaddress.ip_address(address[0]).is_loopback for *_, address in _resolve(host, 0))
    except OSError:
        return False


def _resolve(host: str, port: int) -> list[Any]:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
