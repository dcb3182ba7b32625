"""A multipart upload read as it comes in: into memory, within the limits, and never onto a disk.

Nothing is done with a file's name but to return it with the file's row.
"""

from collections.abc import AsyncIterator
from typing import Any, NamedTuple

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from orchestrator.serving.web.limits import Limits, Ticket
from orchestrator.serving.web.refusals import Refused

FIELDS = ("machine", "section", "spectrogram")
FILES = "files"
MOST_FIELD_BYTES = 512
MOST_NAME_LETTERS = 200
MOST_HEADER_BYTES = 4096
MOST_PARTS_BESIDE_FILES = 16
FRAME_BYTES = 256 << 10  # of a body beside its files: boundaries, part headers, fields


class File(NamedTuple):
    """One uploaded file."""

    name: str
    data: bytes


class Upload(NamedTuple):
    """What a request holds."""

    files: list[File]
    fields: dict[str, str]


async def read_upload(
    stream: AsyncIterator[bytes], content_type: str, length: str, limits: Limits, ticket: Ticket
) -> Upload:
    """All parts of a multipart body. Refused: 400 malformed, 413 over a limit, 415 no multipart, 422 wrong fields."""
    most = limits.request_bytes + FRAME_BYTES
    if length.isdigit() and (len(length) > 18 or int(length) > most):
        raise Refused(413, _too_much(limits))
    parts = _Parts(_boundary(content_type), limits, ticket)
    received = 0
    async for chunk in stream:
        received += len(chunk)
        if received > most:
            raise Refused(413, _too_much(limits))
        parts.write(chunk)
    return parts.finish()


def _too_much(limits: Limits) -> str:
    return f"more than {limits.max_request_mb:g} MB in one request; send fewer recordings at a time"


def _boundary(content_type: str) -> bytes:
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data":
        raise Refused(415, "send the recordings as multipart/form-data", ["multipart/form-data"])
    if not 0 < len(boundary) <= 70:
        raise Refused(400, "multipart/form-data needs a boundary of 1 to 70 characters")
    return boundary


class _Parts:
    """The parser's callbacks: collects the part that is being received, then files it."""

    def __init__(self, boundary: bytes, limits: Limits, ticket: Ticket) -> None:
        self.limits, self.ticket = limits, ticket
        self.files: list[File] = []
        self.fields: dict[str, str] = {}
        self.parts, self.ended = 0, False
        names = ("part_begin", "part_data", "part_end", "header_field", "header_value", "header_end", "end")
        callbacks: Any = {f"on_{name}": getattr(self, f"_{name}") for name in (*names, "headers_finished")}
        self.parser = MultipartParser(boundary, callbacks, max_header_count=16, max_header_size=MOST_HEADER_BYTES)

    def write(self, chunk: bytes) -> None:
        try:
            self.parser.write(chunk)
        except FormParserError as error:
            raise Refused(400, f"malformed multipart body: {error}") from None

    def finish(self) -> Upload:
        if not self.ended:
            raise Refused(400, "the multipart body is cut off: its last boundary is missing")
        return Upload(self.files, self.fields)

    def _part_begin(self) -> None:
        self.parts += 1
        if self.parts > self.limits.max_files + MOST_PARTS_BESIDE_FILES:
            raise Refused(413, self._too_many())
        self.headers: dict[bytes, bytes] = {}
        self.data, self.key, self.value = bytearray(), bytearray(), bytearray()

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self.key += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self.value += data[start:end]

    def _header_end(self) -> None:
        self.headers[bytes(self.key).lower()] = bytes(self.value)
        self.key, self.value = bytearray(), bytearray()

    def _headers_finished(self) -> None:
        told = self.headers.get(b"content-disposition", b"").decode("latin-1")
        kind, options = parse_options_header(told)
        if kind != b"form-data" or b"name" not in options:
            raise Refused(400, "malformed multipart body: a part without a name")
        self.name = _text(options[b"name"])
        self.file_name = _text(options[b"filename"]) if b"filename" in options else None
        if self.name != FILES and (self.name not in FIELDS or self.file_name is not None):
            raise Refused(422, f"unknown field {self.name!r}", [FILES, *FIELDS])
        if self.name == FILES and len(self.files) == self.limits.max_files:
            raise Refused(413, self._too_many())

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        size = len(self.data) + end - start
        if self.name == FILES and size > self.limits.file_bytes:
            raise Refused(413, f"{self.file_name or 'a recording'}: more than {self.limits.max_file_mb:g} MB")
        if self.name != FILES and size > MOST_FIELD_BYTES:
            raise Refused(422, f"{self.name}: more than {MOST_FIELD_BYTES} bytes")
        self.ticket.hold(end - start)
        self.data += data[start:end]

    def _part_end(self) -> None:
        if self.name == FILES:
            self.files.append(File(self.file_name or "", bytes(self.data)))
        elif self.name in self.fields:
            raise Refused(422, f"{self.name} is given twice")
        else:
            self.fields[self.name] = _text(bytes(self.data))
        self.data = bytearray()

    def _end(self) -> None:
        self.ended = True

    def _too_many(self) -> str:
        return f"more than {self.limits.max_files} recordings in one request; send fewer at a time"


def _text(data: bytes) -> str:
    """Readable text of any bytes, of a length that fits into a table."""
    return data.decode("utf-8", errors="replace")[:MOST_NAME_LETTERS]
