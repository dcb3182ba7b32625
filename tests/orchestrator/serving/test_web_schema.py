"""Every answer is one that the service's own OpenAPI description promises, whatever is asked."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from serving_world import sound, wav
from web_world import BOUNDARY, LocalBackend, Reply, Site, form, site

from orchestrator.serving.web.guard import Rules
from orchestrator.serving.web.limits import Limits

LIMITS = Limits(max_file_mb=0.05, max_request_mb=0.1, max_files=3)
GOOD = wav(sound(900, np.random.default_rng(3), 0.3))
TOKEN = "correct-horse-battery"
KIND = f"multipart/form-data; boundary={BOUNDARY}"
OF_THE_CONNECTION = ("transfer-encoding", "content-length", "expect", "upgrade", "host", "connection")
quickly = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def service(exported: Path) -> Iterator[Site]:
    with site(LocalBackend(exported), LIMITS, Rules(TOKEN, False)) as running:
        yield running


@pytest.fixture(scope="module")
def described(service: Site) -> dict[str, Any]:
    return service.ask("GET", "/openapi.json").json


def check(described: dict[str, Any], method: str, path: str, reply: Reply) -> None:
    """The status is one of the operation's, and the body fits its schema."""
    told = described["paths"][path][method.lower()]["responses"]
    assert str(reply.status) in told, (reply.status, reply.body)
    kinds = told[str(reply.status)].get("content", {})
    kind = reply.headers["content-type"].split(";")[0]
    assert kind in kinds
    if kind == "application/json":
        schema = {**kinds[kind]["schema"], "components": described["components"]}
        jsonschema.validate(reply.json, schema, cls=jsonschema.Draft202012Validator)


def test_the_description_is_openapi(described: dict[str, Any]) -> None:
    assert described["openapi"].startswith("3.1")
    assert sorted(described["paths"]) == ["/health", "/metrics", "/model", "/score"]
    for schema in described["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


files = st.lists(st.tuples(st.text(max_size=20), st.sampled_from([GOOD, GOOD[:300], b"", b"x" * 60_000])), max_size=4)
words = st.one_of(st.sampled_from(["fan", "pump", "00", "01", "true", "false", ""]), st.text(max_size=10))
names = st.sampled_from(["machine", "section", "spectrogram", "files", "other"])
tokens = st.sampled_from([f"Bearer {TOKEN}"] * 5 + ["", "Bearer x", "Basic eDp5"])


def sendable(text: str) -> str:
    """A name that can stand in a part's header."""
    return text.encode(errors="replace").decode().translate(dict.fromkeys([*range(32), 34, 92, 127], "_"))


@quickly
@example([], {"machine": "fan", "section": "00", "files": "fan"}, f"Bearer {TOKEN}")
@example([("a.wav", GOOD)], {"files": "fan", "machine": "fan", "section": "00"}, f"Bearer {TOKEN}")
@given(files, st.dictionaries(names, words, max_size=4), tokens)
def test_uploads(service: Site, described: dict[str, Any], sent: Any, fields: dict[str, str], token: str) -> None:
    named = [(sendable(name), data) for name, data in sent]
    fields = {name: sendable(word) for name, word in fields.items()}
    reply = service.score(*named, headers={"Authorization": token}, **fields)
    check(described, "POST", "/score", reply)
    if reply.status == 200:
        unnamed = [""] if "files" in fields else []  # a part without a file's name is a recording too
        assert [clip["file"] for clip in reply.json["clips"]] == [*unnamed, *(name for name, _ in named)]
    elif reply.status == 422:
        assert reply.json["detail"]


@quickly
@given(
    st.binary(max_size=500),
    st.sampled_from([KIND, "application/json", "multipart/form-data", "", "multipart/form-data; boundary="]),
    st.booleans(),
)
def test_bodies_of_any_bytes(service: Site, described: dict[str, Any], body: bytes, kind: str, framed: bool) -> None:
    body = f"--{BOUNDARY}\r\nContent-Disposition: form-data; ".encode() + body if framed else body
    headers = {"Content-Type": kind, "Authorization": f"Bearer {TOKEN}"}
    check(described, "POST", "/score", service.ask("POST", "/score", body, headers))


@quickly
@given(
    st.sampled_from(["/model", "/health", "/metrics"]),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20),
    st.dictionaries(
        st.from_regex(r"[A-Za-z][A-Za-z-]{0,12}", fullmatch=True).filter(
            lambda n: (
                n.lower() not in ("transfer-encoding", "content-length", "expect", "upgrade", "host", "connection")
            )
        ),
        st.text(st.characters(min_codepoint=33, max_codepoint=255, exclude_characters="\x7f"), max_size=20),
        max_size=3,
    ),
    tokens,
)
def test_questions(service: Site, described: dict[str, Any], path: str, query: str, headers: Any, token: str) -> None:
    given = {**headers, "Authorization": token}
    reply = service.ask("GET", f"{path}?{query.replace('#', '')}", headers=given)
    check(described, "GET", path, reply)


def test_examples_of_every_status(service: Site, described: dict[str, Any]) -> None:
    """The property tests must have something to find: these are the statuses that a client can cause at will."""
    right = {"Authorization": f"Bearer {TOKEN}"}
    body, kind = form(("a", GOOD), machine="pump")
    sent = {
        200: (body, kind),
        400: (body[:-9], kind),
        413: (form(("a", b"x" * 60_000))[0], kind),
        415: (body, {"Content-Type": "text/plain"}),
        422: (form(("a", GOOD), machine="x")[0], kind),
        401: (body, {**kind, "Authorization": "Bearer wrong"}),
        403: (body, {**kind, "Sec-Fetch-Site": "cross-site"}),
    }
    for status, (data, headers) in sent.items():
        reply = service.ask("POST", "/score", data, {**right, **headers})
        assert reply.status == status
        check(described, "POST", "/score", reply)
        json.loads(reply.body)
