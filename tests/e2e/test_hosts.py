"""Two hosts with addresses, temporary folders and shared memory of their own; all they share is an S3 server.

They are network and mount namespaces of this machine.
"""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
from s3_server import BUCKET, s3_server, upload
from support import ROOT, clean_env, free_port, scores

from orchestrator.storage import Store

pytestmark = pytest.mark.e2e

RAY = Path(sys.executable).with_name("ray")


class Host(NamedTuple):
    """A namespace of this machine."""

    name: str
    address: str
    home: Path
    env: dict[str, str]

    def command(self, *words: object) -> list[str]:
        """The words as a command that runs there: its /tmp/ray and /dev/shm are its own."""
        private = f'mount --bind {self.home / "ray"} /tmp/ray && mount -t tmpfs tmpfs /dev/shm && exec "$@"'
        inside = ["unshare", "--mount", "sh", "-c", private, "sh", *map(str, words)]
        return ["ip", "netns", "exec", self.name, *inside]

    def start(self, *words: object) -> subprocess.Popen[str]:
        log = (self.home / "log").open("w")
        return subprocess.Popen(
            self.command(*words), env=self.env, cwd=self.home, stdout=log, stderr=log, text=True, start_new_session=True
        )


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture
def network() -> Iterator[tuple[str, list[str]]]:
    """The name of a network of two namespaces on a bridge: the bridge's address, and theirs."""
    if os.geteuid() or not shutil.which("ip") or not shutil.which("unshare"):
        pytest.skip("needs root, `ip` (iproute2) and `unshare` for network namespaces")
    tag, part = secrets.token_hex(3), secrets.randbelow(200) + 20
    bridge, names = f"asd{tag}", [f"asd{tag}{letter}" for letter in "ab"]
    with ExitStack() as stack:
        try:
            ip("link", "add", bridge, "type", "bridge")
            stack.callback(ip, "link", "delete", bridge)
            ip("addr", "add", f"10.{part}.7.1/24", "dev", bridge)
            ip("link", "set", bridge, "up")
            for number, name in enumerate(names, 2):
                ip("netns", "add", name)
                stack.callback(ip, "netns", "delete", name)
                outer = f"v{tag}{number}"
                ip("link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", name)
                ip("link", "set", outer, "master", bridge, "up")
                ip("-n", name, "addr", "add", f"10.{part}.7.{number}/24", "dev", "eth0")
                ip("-n", name, "link", "set", "eth0", "up")
                ip("-n", name, "link", "set", "lo", "up")
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"network namespaces are not allowed here: {getattr(error, 'stderr', error)}")
        yield f"10.{part}.7", names


@pytest.mark.timeout(600)
def test_two_hosts_that_share_only_a_bucket(
    network: tuple[str, list[str]], study: Path, factory: Path, reference: Path, tmp_path: Path
) -> None:
    net, names = network
    started: list[subprocess.Popen[str]] = []
    with s3_server(f"{net}.1") as reach:
        bucket = Store.at(f"s3://{BUCKET}")
        upload(factory, bucket)
        hosts = [_host(name, f"{net}.{n}", tmp_path, reach) for n, name in enumerate(names, 2)]
        try:
            _run(hosts, study, bucket, started)
        finally:
            for process in started:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            for process in psutil.process_iter(["cmdline"]):  # what left its group
                if str(hosts[0].address) in " ".join(process.info["cmdline"] or []):
                    process.kill()
        results = bucket.child("results", "undisturbed")
        order = [(name, "ascending") for name in ("member", "epoch", "output", "clip_id")]
        assert results.read_table("scores.parquet").sort_by(order).to_pylist() == scores(reference)
    assert not (hosts[0].home / "results").exists()


def _host(name: str, address: str, folder: Path, reach: dict[str, str]) -> Host:
    home = folder / name
    (home / "ray").mkdir(parents=True)
    Path("/tmp/ray").mkdir(exist_ok=True)
    env = {key: value for key, value in clean_env().items() if key != "RAY_ADDRESS"} | reach
    env |= {"PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "ab" * 32, "no_proxy": "*"}
    return Host(name, address, home, env)


def _run(hosts: list[Host], study: Path, bucket: Store, started: list[subprocess.Popen[str]]) -> None:
    head, other = hosts
    port = free_port()
    size = ["--block", "--num-cpus=1", "--object-store-memory=200000000", f"--node-ip-address={head.address}"]
    started.append(head.start(RAY, "start", "--head", f"--port={port}", "--include-dashboard=false", *size))
    size[-1] = f"--node-ip-address={other.address}"
    for _ in range(20):  # the head may not listen yet
        joined = other.start(RAY, "start", f"--address={head.address}:{port}", *size)
        time.sleep(3)
        if joined.poll() is None:
            break
    started.append(joined)
    words = ["run", study, "name=undisturbed", f"data.root={bucket.uri}/factory", f"storage={bucket.uri}/results"]
    words += ["tracking.enabled=false", f"cluster.address={head.address}:{port}", "cluster.slots=2"]
    driver = [sys.executable, "-m", "jobs", *words]
    limit = time.monotonic() + 300
    while time.monotonic() < limit:  # until the second host has joined, two slots are refused
        inside = subprocess.run(
            ["ip", "netns", "exec", head.name, "nsenter", f"--mount=/proc/{_raylet(head)}/ns/mnt", *map(str, driver)],
            env=head.env,
            cwd=head.home,
            capture_output=True,
            text=True,
            timeout=300,
        )
        if "the study asks for 2 slot(s)" not in inside.stderr:
            break
    assert inside.returncode == 0, inside.stdout + inside.stderr + (other.home / "log").read_text()
    assert "on 2 slot(s)" in inside.stdout


def _raylet(host: Host) -> int:
    """The process of a host's raylet, whose folders a driver there must see."""
    limit = time.monotonic() + 60
    while time.monotonic() < limit:
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or []
            if words and words[0].endswith("/raylet/raylet") and f"--node_ip_address={host.address}" in words:
                return int(process.pid)
        time.sleep(0.5)
    raise AssertionError((host.home / "log").read_text())
