"""What the door lets in, over real connections: limits, tokens, hosts, slow and many clients."""

import asyncio
import contextlib
import re
import socket
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError
from rich.console import Console
from web_world import LocalBackend, Site, ask, form, score, site

from orchestrator.errors import ConfigError, ResourceError
from orchestrator.serving.web import door, guard
from orchestrator.serving.web.command import ServeRequest, greeting, make_rules, serve_command
from orchestrator.serving.web.door import is_loopback, listen
from orchestrator.serving.web.guard import Rules, is_loopback_name
from orchestrator.serving.web.limits import Limits

TOKEN = "correct-horse-battery"
LIMITS = Limits(max_file_mb=1, max_request_mb=2, max_files=3, max_queue=8, timeout_seconds=2)
NOISE = ("a.wav", b"noise")


@pytest.fixture(scope="module")
def backend(exported: Path) -> LocalBackend:
    return LocalBackend(exported)


@pytest.fixture(scope="module")
def service(backend: LocalBackend) -> Iterator[Site]:
    with site(backend, LIMITS) as running:
        yield running


def raw(port: int, data: bytes, seconds: float = 15) -> bytes:
    """Everything that comes back until the service closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        connection.sendall(data)
        received = b""
        while block := connection.recv(65536):
            received += block
        return received


def test_too_large_is_413_with_and_without_a_length(service: Site) -> None:
    body, kind = form(("a.wav", bytes(3 << 20)), machine="fan")
    told = service.ask("POST", "/score", body, kind)
    chunked = service.ask("POST", "/score", iter([body[i : i + 65536] for i in range(0, len(body), 65536)]), kind)
    assert told.status == chunked.status == 413
    assert told.json == {"detail": "more than 2 MB in one request; send fewer recordings at a time"}
    assert chunked.json == {"detail": "a.wav: more than 1 MB"}
    assert service.score(*[NOISE] * 4, machine="fan").status == 413
    assert service.service.gate.bytes == 0


def test_a_refusal_can_be_read_by_one_who_is_still_sending(service: Site) -> None:
    """Also by a client that asks for the connection to be closed, as Python's own does."""
    body, kind = form(("a.wav", bytes(20 << 20)), machine="fan")
    for headers in (kind, {**kind, "Connection": "close"}, {**kind, "Sec-Fetch-Site": "cross-site"}):
        reply = service.ask("POST", "/score", body, headers)
        assert reply.status in (403, 413)
        assert reply.json["detail"]


def test_an_endless_body_ends(backend: LocalBackend, monkeypatch) -> None:
    """The answer comes after 1 MB, and the connection is closed a while later, whatever else is sent."""
    monkeypatch.setattr(guard, "HEAR_OUT_SECONDS", 0.5)
    monkeypatch.setattr(door, "HEAD_SECONDS", 0.5)
    head = f"POST /score HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n{KIND}\r\n\r\n".encode()
    start = form(("a.wav", b""), machine="fan")[0].removesuffix(b"\r\n--boundary--\r\n")
    with site(backend, LIMITS) as running, socket.create_connection(("127.0.0.1", running.port), timeout=20) as client:
        client.sendall(head + f"{len(start):x}\r\n".encode() + start + b"\r\n")
        started = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while time.monotonic() - started < 10:
                client.sendall(b"100000\r\n" + bytes(1 << 20) + b"\r\n")
        assert time.monotonic() - started < 5
        assert running.service.gate.bytes == 0
        assert running.ask("GET", "/health").status == 200


KIND = "Content-Type: multipart/form-data; boundary=boundary"


@pytest.mark.parametrize(
    ("fields", "words", "valid"),
    [
        ({"machine": "valve"}, "unknown machine 'valve'", ["fan", "pump"]),
        ({}, "machine is missing", ["fan", "pump"]),
        ({"machine": "fan"}, "fan needs a section", ["00", "01"]),
        ({"machine": "pump", "section": "07"}, "pump has no section '07'", ["00"]),
        ({"machine": "pump", "spectrogram": "yes"}, "spectrogram 'yes'", ["true", "false"]),
        ({"machine": "../pump"}, "unknown machine '../pump'", ["fan", "pump"]),
    ],
)
def test_a_wrong_field_is_422_with_what_is_valid(service: Site, fields, words, valid) -> None:
    reply = service.score(NOISE, **fields)
    assert (reply.status, reply.json) == (422, {"detail": words, "valid": valid})


def test_no_file_is_422(service: Site) -> None:
    assert service.score(machine="pump").json == {"detail": "no recording: send at least one as files"}


def test_what_is_not_there_or_not_allowed(service: Site) -> None:
    assert service.ask("GET", "/nothing").json == {"detail": "Not Found"}
    assert service.ask("GET", "/../../etc/passwd").status == 404
    assert service.ask("GET", "/%2e%2e/%2e%2e/etc/passwd").status == 404
    assert service.ask("DELETE", "/score").json == {"detail": "Method Not Allowed"}


def test_every_answer_carries_the_headers_that_keep_pages_apart(service: Site) -> None:
    for path in ("/", "/docs", "/page.js", "/health", "/nothing", "/openapi.json"):
        headers = service.ask("GET", path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "server" not in headers
    pages = service.ask("GET", "/").body + service.ask("GET", "/docs").body
    assert not re.findall(rb"""(?:src|href)=["']?(?:https?:)?//""", pages)  # nothing from elsewhere
    assert b"<style" not in pages
    assert b"style=" not in pages
    assert not re.findall(rb"<script(?! src)", pages)


def test_a_wrong_token_opens_nothing(backend: LocalBackend) -> None:
    with site(backend, LIMITS, Rules(TOKEN, False)) as running:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}, {"Authorization": "Bearer é"}):
            for method, path in (("GET", "/model"), ("POST", "/score"), ("GET", "/metrics"), ("GET", "/nothing")):
                headers = {key: value.encode("utf-8").decode("latin-1") for key, value in headers.items()}
                reply = running.ask(method, path, headers=headers)
                assert reply.status == 401
                assert reply.headers["www-authenticate"].startswith("Bearer")
        right = {"Authorization": f"Bearer {TOKEN}"}
        assert running.ask("GET", "/model", headers=right).status == 200
        assert running.score(NOISE, machine="pump", headers=right).status == 200
        assert [running.ask("GET", path).status for path in ("/", "/health", "/docs", "/openapi.json")] == [200] * 4


def test_a_page_of_another_site_gets_nothing(service: Site) -> None:
    assert service.ask("GET", "/model", headers={"Host": "evil.example"}).status == 421
    assert service.score(NOISE, machine="pump", headers={"Sec-Fetch-Site": "cross-site"}).status == 403
    assert service.score(NOISE, machine="pump", headers={"Sec-Fetch-Site": "same-origin"}).status == 200


@pytest.mark.parametrize(
    ("host", "own"),
    [
        *[(name, True) for name in ("localhost", "localhost:80", "127.0.0.1:8080", "127.8.8.8", "[::1]:80", "[::1]")],
        *[(name, False) for name in ("", "evil", "localhost.evil", "127.0.0.1.evil", "10.0.0.1", "[::2]", "[", "::1")],
    ],
)
def test_names_of_this_machine(host, own) -> None:
    assert is_loopback_name(host) == own


def test_huge_and_broken_heads_are_answered_and_closed(service: Site) -> None:
    for data in (
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 200_000,
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
        b"GET /" + b"x" * 200_000,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(50),  # TLS
        b"POST /score HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /score HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"GARBAGE\r\n\r\n",
    ):
        with contextlib.suppress(ConnectionError):  # it had enough before we had said everything
            assert raw(service.port, data).startswith(b"HTTP/1.1 400")
    assert service.ask("GET", "/health").status == 200


def test_a_connection_that_asks_nothing_is_closed(backend: LocalBackend, monkeypatch) -> None:
    monkeypatch.setattr(door, "HEAD_SECONDS", 0.5)
    with site(backend, LIMITS) as running, socket.create_connection(("127.0.0.1", running.port), timeout=5) as slow:
        for _ in range(20):  # a letter at a time does not help
            try:
                slow.sendall(b"G")
                time.sleep(0.1)
            except ConnectionError:
                return
        pytest.fail("still open after 2 s")


def test_a_slow_upload_is_408_and_gives_its_place_back(service: Site) -> None:
    head = f"POST /score HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\nConnection: close\r\n{KIND}\r\n\r\n"
    started = time.monotonic()
    answer = raw(service.port, head.encode() + b"--boundary\r\n")
    assert answer.startswith(b"HTTP/1.1 408")
    assert time.monotonic() - started < 10
    assert service.service.gate.requests == 0


def test_a_client_that_leaves_gives_its_place_back(service: Site) -> None:
    head = f"POST /score HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n{KIND}\r\n\r\n--boundary"
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", service.port)) as connection:
            connection.sendall(head.encode())
    time.sleep(0.3)
    assert service.service.gate.requests == 0
    assert service.score(NOISE, machine="pump").status == 200


def test_scoring_that_takes_too_long_is_504(backend: LocalBackend, monkeypatch) -> None:
    monkeypatch.setattr(backend, "delay", 5.0)
    with site(backend, LIMITS) as running:
        reply = running.score(NOISE, machine="pump")
    assert (reply.status, reply.json["detail"]) == (504, "the recordings were not scored within 2 s")


def test_many_at_once_are_answered_or_sent_away(backend: LocalBackend, monkeypatch) -> None:
    """1,000 connections at the same time and a queue of 8."""
    monkeypatch.setattr(backend, "delay", 0.2)
    body, kind = form(NOISE, machine="pump")
    lines = [f"{key}: {value}\r\n" for key, value in {**kind, "Host": "localhost", "Connection": "close"}.items()]
    request = f"POST /score HTTP/1.1\r\nContent-Length: {len(body)}\r\n{''.join(lines)}\r\n".encode() + body

    async def client() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(request)
        answer = await reader.read()
        writer.close()
        return answer

    async def burst() -> list[bytes]:
        return await asyncio.gather(*(client() for _ in range(1000)))

    with site(backend, LIMITS) as running:
        answers = asyncio.run(burst())
        counts = Counter(answer.split()[1] for answer in answers)
        assert set(counts) == {b"200", b"503"}
        assert counts[b"200"] >= 8
        assert all(b"retry-after: 2" in answer for answer in answers if answer.split()[1] == b"503")
        assert running.service.gate.requests == running.service.gate.bytes == 0
        assert running.score(NOISE, machine="pump").status == 200
        assert running.ask("GET", "/health").json == {"status": "ready"}


def test_before_and_without_a_scorer_it_says_so(backend: LocalBackend, monkeypatch) -> None:
    with site(None, LIMITS) as running:
        assert running.ask("GET", "/health").json == {"status": "loading"}
        assert running.ask("GET", "/health").status == 503
        assert running.ask("GET", "/model").status == running.score(NOISE, machine="pump").status == 503
    monkeypatch.setattr(backend, "up", False)
    with site(backend, LIMITS) as running:
        assert running.ask("GET", "/health").json == {"status": "unavailable"}


def test_metrics_count_requests_and_clips(backend: LocalBackend) -> None:
    with site(backend, LIMITS) as running:
        running.score(NOISE, NOISE, machine="pump")
        for path in ("/x", "/y", "/health"):
            running.ask("GET", path)
        text = running.ask("GET", "/metrics").body.decode()
    for line in (
        'asd_clips_total{decision="problem",machine="pump"} 2.0',
        'asd_requests_total{path="/score",status="200"} 1.0',
        'asd_requests_total{path="other",status="404"} 2.0',
        'asd_request_seconds_count{path="/score"} 1.0',
        "asd_queue_requests 0.0",
        "asd_queue_bytes 0.0",
    ):
        assert line in text.splitlines()


def request(**changed: object) -> ServeRequest:
    plain = ServeRequest("model", "127.0.0.1", 0, 1, None, False, LIMITS, "cpu", None, None)
    return plain._replace(**changed)


def test_an_open_service_for_others_must_be_asked_for(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("ASD_TOKEN", raising=False)
    assert make_rules(request()) == Rules(None, True)
    with pytest.raises(ConfigError, match="can be reached from other machines"):
        make_rules(request(host="0.0.0.0"))
    assert make_rules(request(host="0.0.0.0", no_token=True)) == Rules(None, False)
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    assert make_rules(request(host="0.0.0.0", token_file=tmp_path / "token")) == Rules(TOKEN, False)
    monkeypatch.setenv("ASD_TOKEN", TOKEN)
    assert make_rules(request()) == Rules(TOKEN, False)
    assert "Authorization: Bearer" in greeting("http://x", "fan", make_rules(request()))[1]


def test_it_does_not_start_without_a_model_or_a_cluster(exported: Path) -> None:
    console = Console(quiet=True)
    with pytest.raises(ConfigError, match="--model is missing: name a row's folder"):
        serve_command(request(model=""), console)
    with pytest.raises(ResourceError, match="no Ray cluster"):
        serve_command(request(model=str(exported), address="127.0.0.1:1"), console)
    with pytest.raises(ValidationError, match="max_request_mb 128 is less than max_file_mb 500"):
        Limits(max_file_mb=500)


@pytest.mark.parametrize("token", ["", "short", "with a space in the middle", "ümlaut-and-more-letters"])
def test_a_token_must_be_one(tmp_path: Path, token: str) -> None:
    (tmp_path / "token").write_text(token)
    with pytest.raises(ConfigError, match="16 or more ASCII letters"):
        make_rules(request(token_file=tmp_path / "token"))
    with pytest.raises(ConfigError, match="cannot read --token-file"):
        make_rules(request(token_file=tmp_path))


def test_where_it_can_listen() -> None:
    assert [is_loopback(host) for host in ("127.0.0.1", "localhost", "0.0.0.0", "no.such.host.invalid")] == [
        True,
        True,
        False,
        False,
    ]
    with listen("127.0.0.1", 0) as taken, pytest.raises(ResourceError, match="name another --host or --port"):
        listen("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(ResourceError, match=r"no\.such\.host"):
        listen("no.such.host.invalid", 0)


def test_helpers_agree(service: Site) -> None:
    assert ask(service.port, "GET", "/model").json["model"]["study"] == "tiny"
    assert score(service.port, NOISE, machine="pump").json["clips"][0]["problem"] == "not a WAV, FLAC, OGG or MP3 file"
