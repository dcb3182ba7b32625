"""Multipart bodies: the same parts however they come in, and an end to everything that is too much."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from web_world import BOUNDARY, form

from orchestrator.serving.web.limits import Gate, Limits
from orchestrator.serving.web.refusals import Refused
from orchestrator.serving.web.upload import Upload, read_upload

KIND = f"multipart/form-data; boundary={BOUNDARY}"
SMALL = Limits(max_file_mb=0.001, max_request_mb=0.002, max_files=3)  # 1048 and 2097 bytes


def read(body: bytes, *, limits: Limits = SMALL, kind: str = KIND, pieces: int = 100, length: str = "") -> Upload:
    async def stream() -> AsyncIterator[bytes]:
        for start in range(0, len(body), pieces):
            yield body[start : start + pieces]

    async def run() -> Upload:
        with Gate(1, limits.held_bytes).enter() as ticket:
            return await read_upload(stream(), kind, length, limits, ticket)

    return asyncio.run(run())


def refused(body: bytes, **options: object) -> Refused:
    with pytest.raises(Refused) as error:
        read(body, **options)
    return error.value


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(max_size=300), min_size=1, max_size=3), st.integers(1, 200))
def test_files_come_out_as_they_went_in_however_they_are_cut(contents, pieces):
    contents = [data for data in contents if BOUNDARY.encode() not in data]
    body, _ = form(*[(f"{i}.wav", data) for i, data in enumerate(contents)], machine="fan", section="00")
    upload = read(body, pieces=pieces)
    assert [file.data for file in upload.files] == contents
    assert [file.name for file in upload.files] == [f"{i}.wav" for i in range(len(contents))]
    assert upload.fields == {"machine": "fan", "section": "00"}


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400), st.booleans())
def test_any_bytes_are_an_upload_or_a_refusal(noise, framed):
    body = f"--{BOUNDARY}\r\n".encode() + noise if framed else noise
    try:
        read(body)
    except Refused as error:
        status = error.status
    else:
        status = 200
    assert status in (200, 400, 413, 422)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_body_cut_off_anywhere_is_refused(data):
    body, _ = form(("a.wav", b"sound"), machine="fan")
    cut = data.draw(st.integers(0, len(body) - 5))  # the final line break may be missing
    assert refused(body[:cut]).status == 400


NAMES = ["../../etc/passwd", "..\\..\\x.wav", "/abs/olute.wav", "C:\\x.wav", "a\x00b", "é…", ""]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_kept_as_text(name):
    (file,) = read(form((name, b"x"), machine="fan")[0]).files
    assert file.name == ("x.wav" if name.startswith("C:") else name)


def test_a_long_name_or_one_of_bad_bytes_is_made_readable():
    assert read(form(("x" * 1000, b""))[0]).files[0].name == "x" * 200
    body = form(("NAME", b""))[0].replace(b"NAME", b"\xff\xfe")
    assert read(body).files[0].name == "\ufffd\ufffd"


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (form(("a", b"x" * 1049))[0], 413, "a: more than 0.001 MB"),
        (form(*[("a", b"")] * 4)[0], 413, "more than 3 recordings"),
        (form(*[("a", b"x" * 900)] * 3)[0] + b"x" * (300 << 10), 413, "more than 0.002 MB in one request"),
        (form(machine="x" * 600)[0], 422, "machine: more than 512 bytes"),
        (form(colour="red")[0], 422, "unknown field 'colour'"),
        (form(machine="a")[0].replace(b"--boundary--", form(machine="b")[0]), 422, "machine is given twice"),
        (b"--boundary\r\nX: " + b"y" * 5000, 400, "malformed multipart body"),
        (b"--boundary\r\n" + b"X: y\r\n" * 50, 400, "malformed multipart body"),
        (b"--boundary\r\nX: y\r\n\r\n", 400, "a part without a name"),
        (b"", 400, "cut off"),
    ],
)
def test_what_is_wrong_is_said(body, status, words):
    error = refused(body)
    assert error.status == status
    assert words in error.detail


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("", 415),
        ("application/json", 415),
        ("multipart/form-data", 400),
        ("multipart/form-data; boundary=" + "b" * 71, 400),
        ("multipart/mixed; boundary=b", 415),
    ],
)
def test_other_content_types_are_refused(kind, status):
    assert refused(b"", kind=kind).status == status


@pytest.mark.parametrize("length", ["999999999", "9" * 4000])
def test_a_promised_length_is_enough_to_be_refused(length):
    assert refused(b"", length=length).status == 413


def test_open_requests_share_the_memory():
    gate = Gate(2, 100)
    with gate.enter() as one, gate.enter() as two:
        one.hold(60)
        with pytest.raises(Refused) as full:
            two.hold(41)
        with pytest.raises(Refused) as busy, gate.enter():
            pass
    assert (full.value.status, busy.value.status) == (503, 503)
    assert full.value.headers == {"Retry-After": "2"}
    assert (gate.requests, gate.bytes) == (0, 0)
