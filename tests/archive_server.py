"""A real HTTP server on loopback that serves files as badly as real ones do, and archives of recordings for it."""

import hashlib
import io
import json
import re
import threading
import zipfile
from collections import defaultdict
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import soundfile


class ArchiveServer(ThreadingHTTPServer):
    """Serves `files` (path: bytes); `plans` (path: list) holds one fault for each of the next answers.

    A fault is a dict: drop_after (bytes sent before the connection is cut), stall_after (the same, but it stays
    open and silent), status, headers, body (other bytes), ignore_range, content_length (a lie).
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.plans: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.asked: list[tuple[str, str]] = []  # path, Range header
        self.released = threading.Event()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def url(self, path: str) -> str:
        return self.base + path

    def ranges(self, path: str) -> list[str]:
        return [asked for name, asked in self.asked if name == path]

    def publish(self, record: str, files: dict[str, bytes]) -> None:
        """Serve files as a record does, and its metadata as the records API does."""
        listed = [
            {"key": name, "size": len(data), "checksum": f"md5:{hashlib.md5(data).hexdigest()}"}
            for name, data in files.items()
        ]
        self.files[f"/api/records/{record}"] = json.dumps({"id": int(record), "files": listed}).encode()
        self.files |= {f"/records/{record}/files/{name}": data for name, data in files.items()}

    def close(self) -> None:
        self.released.set()
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: ArchiveServer

    def do_GET(self) -> None:
        wanted = self.headers.get("Range", "")
        self.server.asked.append((self.path, wanted))
        plan = self.server.plans[self.path].pop(0) if self.server.plans[self.path] else {}
        data = plan.get("body", self.server.files.get(self.path))
        if "status" in plan or data is None:
            self._send(plan.get("status", 404), b"an error page", plan)
            return
        first = (
            int(match[1]) if (match := re.fullmatch(r"bytes=(\d+)-", wanted)) and not plan.get("ignore_range") else 0
        )
        if first >= len(data) and first:
            self._send(416, b"", {"headers": {"Content-Range": f"bytes */{len(data)}"}})
        elif first:
            headers = {"Content-Range": f"bytes {first}-{len(data) - 1}/{len(data)}"} | plan.get("headers", {})
            self._send(206, data[first:], plan | {"headers": headers})
        else:
            self._send(200, data, plan)

    def _send(self, status: int, body: bytes, plan: dict[str, Any]) -> None:
        self.send_response(status)
        for name, value in plan.get("headers", {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(plan.get("content_length", len(body))))
        self.end_headers()
        self.wfile.write(body[: plan.get("drop_after", plan.get("stall_after"))])
        if "stall_after" in plan:
            self.wfile.flush()
            self.server.released.wait(30)
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        return


def recording(seed: int) -> bytes:
    """A short noise as a WAV file."""
    file = io.BytesIO()
    noise = np.random.default_rng(seed).integers(-9000, 9000, 1600).astype(np.int16)
    soundfile.write(file, noise, 16000, subtype="PCM_16", format="WAV")
    return file.getvalue()


def zipped(members: Iterable[tuple[str | zipfile.ZipInfo, bytes]]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return file.getvalue()


def dev_archive(machine: str, seed: int = 0) -> bytes:
    """An archive as the organisers make them: one folder a machine, attributes beside the clips."""
    names = ["source_train_normal_0000_n_A", "source_train_normal_0001_n_B"]
    tests = ["source_test_normal_0000_n_A", "target_test_anomaly_0000_n_A"]
    clips = [f"{machine}/train/section_00_{name}.wav" for name in names]
    clips += [f"{machine}/test/section_00_{name}.wav" for name in tests]
    members = [(name, recording(seed + place)) for place, name in enumerate(clips)]
    return zipped([*members, (f"{machine}/attributes_00.csv", b"file_name,d1p,d1v\n")])


def eval_archive(machine: str, count: int = 2) -> bytes:
    """Test clips whose names tell nothing."""
    return zipped((f"{machine}/test/section_00_{k:04d}.wav", recording(100 + k)) for k in range(1, count + 1))
