"""A real S3 server as a process of its own on loopback."""

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support import free_port

from orchestrator.storage import Store

BUCKET = "bucket"


@contextmanager
def s3_server(host: str = "127.0.0.1") -> Iterator[dict[str, str]]:
    """The environment that reaches the server, which has one empty bucket; this process gets it too while it lasts."""
    port = free_port(host)
    address = f"http://{host}:{port}"
    env = {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", host, "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    before = {name: os.environ.get(name) for name in env}
    try:
        _make_bucket(address, server)
        os.environ.update(env)
        yield env
    finally:
        server.kill()
        server.wait()
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def _make_bucket(address: str, server: subprocess.Popen) -> None:
    limit = time.monotonic() + 60
    while True:
        assert server.poll() is None, "the S3 server ended; is moto[server] installed?"
        try:
            urllib.request.urlopen(urllib.request.Request(f"{address}/{BUCKET}", method="PUT"), timeout=5)
            return
        except OSError:
            assert time.monotonic() < limit, "the S3 server does not answer"
            time.sleep(0.1)


def upload(factory: Path, bucket: Store) -> None:
    """Put a factory's recordings into the bucket's `factory`."""
    for path in factory.rglob("*.wav"):
        bucket.child("factory", *path.parent.relative_to(factory).parts).write(path.name, path.read_bytes())
