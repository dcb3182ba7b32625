"""The routes: a page, health, the model, scores and figures."""

import asyncio
import time
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

from orchestrator.serving.web.backend import Backend, Unavailable
from orchestrator.serving.web.clips import Clip, Result
from orchestrator.serving.web.guard import Guard, Rules
from orchestrator.serving.web.limits import Gate, Limits
from orchestrator.serving.web.metrics import Metrics
from orchestrator.serving.web.refusals import Refused
from orchestrator.serving.web.schema import ClipAnswer, Health, Problem, ScoreAnswer, Served
from orchestrator.serving.web.upload import FILES, Upload, read_upload

ALIVE_FOR_SECONDS = 2.0  # an answer to /health is not older
ABOUT = "Scores recordings of machines: the higher, the less they sound like the normal ones of the training data."
BODY: dict[str, Any] = {
    "type": "object",
    "required": ["machine", FILES],
    "additionalProperties": False,
    "properties": {
        "machine": {"type": "string", "description": "one of those that GET /model lists", "maxLength": 200},
        "section": {"type": "string", "description": "needed where the machine has several", "maxLength": 200},
        "spectrogram": {"type": "string", "enum": ["true", "false"], "default": "false"},
        FILES: {
            "type": "array",
            "minItems": 1,
            "items": {"type": "string", "format": "binary", "description": "WAV, FLAC, OGG or MP3"},
        },
    },
}
PAGES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/docs": ("docs.html", "text/html"),
    "/docs.js": ("docs.js", "text/javascript"),
}


class Service:
    """What the routes share; the backend comes later, when the model is loaded."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.backend: Backend | None = None
        self.gate = Gate(limits.max_queue, limits.held_bytes)
        self.metrics = Metrics(self.gate)
        self.alive, self.alive_until = False, 0.0

    def ready(self) -> Backend:
        if self.backend is None:
            raise Refused(503, "the model is being loaded; try again soon")
        return self.backend

    async def health(self) -> Health:
        """Ready only where a scorer answers."""
        if self.backend is None:
            return Health(status="loading")
        if time.monotonic() > self.alive_until:
            self.alive = await self.backend.alive()
            self.alive_until = time.monotonic() + ALIVE_FOR_SECONDS
        return Health(status="ready" if self.alive else "unavailable")

    async def score(self, request: Request) -> ScoreAnswer:
        """Receive, check and score an upload; all of it within the time limit."""
        backend, headers = self.ready(), request.headers
        late, said = 408, "the upload was not complete"
        with self.gate.enter() as ticket:
            try:
                async with asyncio.timeout(self.limits.timeout_seconds):
                    stream, kind = request.stream(), headers.get("content-type", "")
                    upload = await read_upload(stream, kind, headers.get("content-length", ""), self.limits, ticket)
                    clips = check_upload(upload, backend.model.known())
                    late, said = 504, "the recordings were not scored"
                    results = await _all(backend, clips)
            except TimeoutError:
                raise Refused(late, f"{said} within {self.limits.timeout_seconds:g} s") from None
            except Unavailable as error:
                raise Refused(503, f"no scorer answers at the moment ({error})") from None
        for clip, result in zip(clips, results, strict=True):
            self.metrics.scored(clip.machine, result)
        rows = [_row(file.name, result) for file, result in zip(upload.files, results, strict=True)]
        return ScoreAnswer(study=backend.model.study, system=backend.model.system, clips=rows)


async def _all(backend: Backend, clips: list[Clip]) -> list[Result]:
    """All clips at once; the first failure cancels the rest."""
    tasks = [asyncio.create_task(backend.score(clip)) for clip in clips]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def check_upload(upload: Upload, known: dict[str, list[str]]) -> list[Clip]:
    """The clips of an upload; Refused (422) says what is valid."""
    machine, section = upload.fields.get("machine", ""), upload.fields.get("section") or None
    drawn = upload.fields.get("spectrogram") or "false"
    if machine not in known:
        raise Refused(422, f"unknown machine {machine!r}" if machine else "machine is missing", list(known))
    sections = known[machine]
    if (section is None and len(sections) > 1) or (section is not None and section not in sections):
        what = "needs a section" if section is None else f"has no section {section!r}"
        raise Refused(422, f"{machine} {what}", sections)
    if drawn not in ("true", "false"):
        raise Refused(422, f"spectrogram {drawn!r}", ["true", "false"])
    if not upload.files:
        raise Refused(422, f"no recording: send at least one as {FILES}")
    return [Clip(file.data, machine, section, drawn == "true") for file in upload.files]


def _row(name: str, result: Result) -> ClipAnswer:
    return ClipAnswer(file=name, **result._asdict())


def make_app(limits: Limits, rules: Rules) -> tuple[Guard, Service]:
    """The application and what it needs to know when the model is loaded."""
    service = Service(limits)
    api = FastAPI(
        title="asd", version="1", description=ABOUT, docs_url=None, redoc_url=None,
        responses={code: {"model": Problem, "description": what} for code, what in _COMMON.items()},
        exception_handlers={Refused: _refused, ClientDisconnect: _gone}
    )  # fmt: skip
    _add_routes(api, service)
    return Guard(api, rules, service.metrics, limits.timeout_seconds), service


_COMMON = {
    401: "the token is missing or wrong",
    403: "sent by a page of another site",
    421: "asked under a name that is not this machine's own",
}
_SCORE = {
    400: "malformed body",
    408: "the upload took too long",
    413: "too large, or too many recordings",
    415: "not multipart/form-data",
    422: "unknown machine, section or field; `valid` lists what there is",
    503: "busy, or the model is being loaded; try again after Retry-After seconds",
    504: "scoring took too long",
}


def _add_routes(api: FastAPI, service: Service) -> None:
    busy: dict[int | str, dict[str, Any]] = {503: {"model": Problem, "description": "the model is being loaded"}}
    errors: dict[int | str, dict[str, Any]] = {
        code: {"model": Problem, "description": what} for code, what in _SCORE.items()
    }
    content = {"required": True, "content": {"multipart/form-data": {"schema": BODY}}}

    @api.post("/score", responses=errors, openapi_extra={"requestBody": content})
    async def score(request: Request) -> ScoreAnswer:
        """Score one or more recordings of one machine; a recording that cannot be used is a row with a problem."""
        return await service.score(request)

    @api.get("/model", responses=busy)
    async def model() -> Served:
        """The model, its machines with thresholds, and the limits of a request."""
        return Served(model=service.ready().model, limits=service.limits)

    @api.get("/health", responses={503: {"model": Health, "description": "not ready"}})
    async def health(response: Response) -> Health:
        """200 where recordings can be scored now."""
        found = await service.health()
        response.status_code = 200 if found.status == "ready" else 503
        return found

    @api.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Figures for Prometheus."""
        return Response(service.metrics.text(), media_type=service.metrics.content_type)

    for path, (name, kind) in PAGES.items():
        api.add_api_route(path, _page(name, kind), include_in_schema=False)


def _page(name: str, kind: str) -> Any:
    content = (files(__package__) / "page" / name).read_bytes()

    async def page() -> Response:
        return Response(content, media_type=kind)

    return page


async def _refused(_: Request, refused: Refused) -> JSONResponse:
    return JSONResponse(refused.body(), refused.status, refused.headers)


async def _gone(_: Request, __: ClientDisconnect) -> Response:
    return Response(status_code=400)  # nobody will read it
