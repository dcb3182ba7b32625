"""What `asd serve` does: check, listen, start Ray and the scorers, say where, and wait for the end."""

import os
import signal
import threading
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from orchestrator.config import ClusterConfig
from orchestrator.errors import ConfigError, ResourceError
from orchestrator.runtime import ray_session
from orchestrator.serving.location import ADVICE, is_address, open_model
from orchestrator.serving.web.app import make_app
from orchestrator.serving.web.door import Door, is_loopback, listen
from orchestrator.serving.web.guard import Rules
from orchestrator.serving.web.limits import Limits

TOKEN = "ASD_TOKEN"
LEAST_TOKEN_LETTERS = 16


class ServeRequest(NamedTuple):
    """The command's arguments."""

    model: str
    host: str
    port: int
    replicas: int
    token_file: Path | None
    no_token: bool
    limits: Limits
    device: str
    address: str | None
    tracking: str | None


def serve_command(request: ServeRequest, console: Console) -> None:
    """Serve until SIGINT or SIGTERM. UserError says what must be different."""
    if not request.model:
        raise ConfigError(f"--model is missing: {ADVICE}")
    rules = make_rules(request)
    if not is_address(request.model):
        open_model(request.model)  # each scorer does it again; here, a wrong path is told before Ray is started
    app, service = make_app(request.limits, rules)
    with Door(app, listen(request.host, request.port)) as door:
        console.print(f"loading {request.model} ...", soft_wrap=True)
        with ray_session(ClusterConfig(address=request.address)):
            from orchestrator.serving.web.deployment import Plan, ray_scorers

            limits = request.limits
            most_clips = limits.max_queue * limits.max_files
            plan = Plan(
                request.model, request.tracking, request.device, request.replicas, limits.max_seconds, most_clips
            )
            with ray_scorers(plan) as backend:
                service.backend = backend
                for line in greeting(door.address, backend.model.machines[0].machine, rules):
                    console.print(line, soft_wrap=True)
                _wait(door)
                console.print("stopping ...")


def make_rules(request: ServeRequest) -> Rules:
    """Who may ask; ConfigError for an open service that other machines can reach."""
    token, loopback = read_token(request.token_file), is_loopback(request.host)
    if token is None and not loopback and not request.no_token:
        raise ConfigError(
            f"--host {request.host} can be reached from other machines: give --token-file FILE or {TOKEN}, "
            "or say --no-token where something else keeps strangers out"
        )
    return Rules(token, loopback and token is None)


def read_token(file: Path | None) -> str | None:
    """The token of a file, else of the environment, else none."""
    where = str(file) if file else TOKEN
    try:
        token = file.read_text().strip() if file else os.environ.get(TOKEN, "").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read --token-file {where}: {error}") from None
    if not token and file is None:
        return None
    if len(token) < LEAST_TOKEN_LETTERS or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(
            f"the token of {where} is no line of {LEAST_TOKEN_LETTERS} or more ASCII letters; "
            "make one: openssl rand -hex 24 > token"
        )
    return token


def greeting(address: str, machine: str, rules: Rules) -> list[str]:
    """What to do next."""
    secret = f"-H 'Authorization: Bearer '${TOKEN} " if rules.token else ""
    return [
        f"ready: {address}  (the API: {address}/docs, figures: {address}/metrics; Ctrl-C ends it)",
        f"next: curl {secret}-F machine={machine} -F files=@clip.wav {address}/score",
    ]


def _wait(door: Door) -> None:
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    while not ended.wait(0.5):
        if not door.thread.is_alive():
            raise ResourceError("the HTTP server has ended; see the messages above")
