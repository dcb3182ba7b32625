"""`asd serve`: a model behind HTTP."""

from pathlib import Path
from typing import Annotated

import typer


def serve(
    model: Annotated[
        str, typer.Option(help="results/STUDY/systems/ROW, models:/NAME@champion, or an exported folder")
    ] = "",
    host: Annotated[str, typer.Option(help="address to listen on; needs a token if not loopback")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one")] = 8080,
    replicas: Annotated[int, typer.Option(min=1, help="copies of the model, each with its share of the cores")] = 1,
    token_file: Annotated[Path | None, typer.Option(help="clients must send its token; default: ASD_TOKEN")] = None,
    no_token: Annotated[bool, typer.Option("--no-token", help="let anyone ask who can reach --host")] = False,
    max_file_mb: Annotated[float, typer.Option(help="of one recording")] = 64,
    max_request_mb: Annotated[float, typer.Option(help="of all recordings of a request")] = 128,
    max_files: Annotated[int, typer.Option(help="recordings in a request")] = 32,
    max_seconds: Annotated[float, typer.Option(help="of one recording")] = 600,
    max_queue: Annotated[int, typer.Option(help="requests at a time; more are answered 503")] = 256,
    timeout: Annotated[float, typer.Option(help="seconds for a request")] = 60,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto: a GPU where there is one")] = "auto",
    address: Annotated[str | None, typer.Option(help="of a running Ray cluster, or auto; default: a local Ray")] = None,
    tracking: Annotated[str | None, typer.Option(help="MLflow store of a models:/ address")] = None,
) -> None:
    """Score uploaded recordings over HTTP: a page, an API with OpenAPI, batching, limits, health and metrics."""
    from pydantic import ValidationError

    from jobs.terminal import terminal
    from orchestrator.errors import ConfigError
    from orchestrator.serving.web.command import ServeRequest, serve_command
    from orchestrator.serving.web.limits import Limits

    try:
        limits = Limits(
            max_file_mb=max_file_mb, max_request_mb=max_request_mb, max_files=max_files, max_seconds=max_seconds,
            max_queue=max_queue, timeout_seconds=timeout,
        )  # fmt: skip
    except ValidationError as error:
        said = [f"{'.'.join(map(str, fault['loc'])) or 'limits'}: {fault['msg']}" for fault in error.errors()]
        raise ConfigError("; ".join(said)) from None
    request = ServeRequest(model, host, port, replicas, token_file, no_token, limits, device, address, tracking)
    serve_command(request, terminal())
