"""The outermost layer: who may ask, headers of every answer, an end to every request, and its figures."""

import asyncio
import contextlib
import hmac
import ipaddress
import json
import time
from typing import NamedTuple

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator.serving.web.metrics import Metrics
from orchestrator.serving.web.refusals import Refused

OPEN_PATHS = ("/", "/page.css", "/page.js", "/docs", "/docs.js", "/health", "/openapi.json")  # hold no secrets
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "media-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
]
HEAR_OUT_SECONDS = 5.0
SPARE_SECONDS = 30.0  # for a slow client to take its answer


class Rules(NamedTuple):
    """Who may ask."""

    token: str | None  # of the Authorization header
    loopback_only: bool  # answer only to this machine's own names


class Guard:
    """Wraps the application."""

    def __init__(self, app: ASGIApp, rules: Rules, metrics: Metrics, timeout_seconds: float) -> None:
        self.app, self.rules, self.metrics = app, rules, metrics
        self.seconds = timeout_seconds + SPARE_SECONDS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started, exchange = time.monotonic(), Exchange(scope, receive, send)
        try:
            async with asyncio.timeout(self.seconds):
                await self._admit(scope, exchange.receive, exchange.send)
        finally:
            self.metrics.answered(scope["path"], exchange.status, time.monotonic() - started)

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            check(scope, self.rules)
        except Refused as refused:
            await respond(refused, send)
        else:
            await self.app(scope, receive, send)


class Exchange:
    """One request and its answer, with our headers, the status for the figures, and an orderly end."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self.status = 499  # nobody was there to take the answer
        # One who waits for our consent before sending its body (curl) has none to send after an answer.
        self.more = scope["method"] not in ("GET", "HEAD") and b"expect" not in dict(scope["headers"])

    async def receive(self) -> Message:
        message = await self._receive()
        self.more = self.more and message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": [*message.get("headers", []), *HEADERS]}
        elif self.more and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            await self._hear_out()
            message = {"type": "http.response.body", "body": b""}
        await self._send(message)

    async def _hear_out(self) -> None:
        """Let the client say the rest, into nothing: it reads the answer of a connection closed on it as an error."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HEAR_OUT_SECONDS):
                while self.more:
                    await self.receive()


def check(scope: Scope, rules: Rules) -> None:
    """Refused: 401 without the token, 403 from a page of another site, 421 under a foreign name."""
    headers = dict(scope["headers"])
    host = headers.get(b"host", b"").decode("latin-1").lower()
    if rules.loopback_only and not is_loopback_name(host):
        # A foreign page can give its own name this address and so read answers (DNS rebinding).
        raise Refused(421, "asked under a name that is not this machine's own; set a token to allow other names")
    if headers.get(b"sec-fetch-site", b"none") not in (b"none", b"same-origin") and scope["method"] != "GET":
        raise Refused(403, "a page of another site may not send recordings")
    if rules.token is None or scope["path"] in OPEN_PATHS:
        return
    told = headers.get(b"authorization", b"")
    if not hmac.compare_digest(told, b"Bearer " + rules.token.encode()):
        raise Refused(401, "the token is missing or wrong; send `Authorization: Bearer TOKEN`")


def is_loopback_name(host: str) -> bool:
    """Whether a Host header, with or without a port, names this machine: localhost, 127.0.0.1, [::1]."""
    name = host.partition("]")[0].removeprefix("[") if host.startswith("[") else host.partition(":")[0]
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


async def respond(refused: Refused, send: Send) -> None:
    """The refusal as JSON."""
    body = json.dumps(refused.body()).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(name.lower().encode(), value.encode()) for name, value in refused.headers.items()]
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
