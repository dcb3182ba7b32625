"""Results and recordings in an object store: the same promises as in a folder, on a real S3 server."""

import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import csv
from s3_server import BUCKET, s3_server
from support import clean_env

from orchestrator import lock
from orchestrator.data.clips import scan
from orchestrator.data.synth import FactoryOptions, make_factory
from orchestrator.data.truth import read_truth
from orchestrator.errors import DataError, StorageError
from orchestrator.lock import LOCK, only_writer
from orchestrator.storage import Store, read_file

HOLD = """
import sys, time
from orchestrator.lock import only_writer
from orchestrator.storage import Store
with only_writer(Store.at(sys.argv[1])):
    print("held", flush=True)
    time.sleep(120)
"""


def pa_csv(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    csv.write_csv(table, sink)
    return sink.getvalue().to_pybytes()


@pytest.fixture(scope="module", autouse=True)
def _server() -> Iterator[None]:
    with s3_server():
        yield


@pytest.fixture
def store(request: pytest.FixtureRequest) -> Store:
    return Store.at(f"s3://{BUCKET}/{request.node.name}")


def test_what_is_written_is_read_back_and_replaced(store: Store) -> None:
    assert not store.exists("x.json")
    assert store.names() == set()
    store.write_json("x.json", {"k": 1})
    store.write_json("x.json", {"k": 2})
    assert store.read_json("x.json") == {"k": 2}
    assert store.names() == {"x.json"}
    assert Store.at(store.uri).child("a").uri == f"{store.uri}/a"
    with pytest.raises(FileNotFoundError):
        store.read("y.json")
    store.remove("x.json")
    store.remove("x.json")
    assert not store.exists("x.json")


def test_a_write_that_is_killed_leaves_the_old_object(store: Store) -> None:
    store.write("big", b"old")
    writing = "import os, sys\nfrom orchestrator.storage import Store\nstore = Store.at(sys.argv[1])\n" + (
        "sink = store.files.open_output_stream(store.path('big'))\n"
        "sink.write(bytes(30_000_000))\nprint('half', flush=True)\nos.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", writing, store.uri], capture_output=True, text=True, env=clean_env())
    assert done.stdout == "half\n", done.stderr
    assert store.read("big") == b"old"


def test_local_copies_are_the_objects(store: Store, tmp_path: Path) -> None:
    store.write("a.csv", b"1")
    (copy,) = store.local_copies(["a.csv"], tmp_path)
    assert copy.read_bytes() == b"1"


def test_faults_of_a_server_are_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StorageError, match="there is no such bucket; make it first"):
        Store.at("s3://nobody/x").write("y", b"")
    with pytest.raises(StorageError, match="is no place that we can open"):
        Store.at("gopher://x/y")
    asking = "from orchestrator.storage import Store\nStore.at('s3://bucket/x').read('y')"
    env = clean_env() | {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}
    done = subprocess.run([sys.executable, "-c", asking], capture_output=True, text=True, env=env)
    assert "no server answers at the address: check AWS_ENDPOINT_URL" in done.stderr


def test_without_permission_places_are_named_and_no_trace_is_left(store: Store) -> None:
    def allow(actions: str) -> None:
        server, plain = f"{os.environ['AWS_ENDPOINT_URL']}/moto-api/reset-auth", {"Content-Type": "text/plain"}
        urllib.request.urlopen(urllib.request.Request(server, actions.encode(), plain), timeout=10)

    allow("0")
    try:
        for ask in (lambda: store.write("x", b""), lambda: scan([store.uri]), lambda: read_truth(f"{store.uri}/t.csv")):
            with pytest.raises(StorageError, match=f"cannot .* {store.uri}.*: (no permission|wrong cred)[^.]*. M"):
                ask()
    finally:
        allow("inf")
    assert store.names() == set()


def test_a_second_writer_is_refused_while_the_first_lives(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "SETTLE_SECONDS", 0.1)
    first = subprocess.Popen(
        [sys.executable, "-c", HOLD, store.uri], stdout=subprocess.PIPE, text=True, env=clean_env()
    )
    try:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        with pytest.raises(StorageError, match=f"is being written by pid {first.pid} on "), only_writer(store):
            pass
    finally:
        first.kill()
        first.wait()
    begun = time.monotonic()
    with only_writer(store):  # its process is gone from this machine: no need to wait for its lease
        assert time.monotonic() - begun < lock.LEASE_SECONDS
        assert store.exists(LOCK)
    assert not store.exists(LOCK)


def test_a_lease_of_another_machine_ends_when_it_stands_still(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "LEASE_SECONDS", 1.5)
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.4)
    monkeypatch.setattr(lock, "SETTLE_SECONDS", 0.1)
    store.write_json(LOCK, ["pid 1 on elsewhere", "theirs", 7])
    begun = time.monotonic()
    with only_writer(store):
        assert time.monotonic() - begun >= 1.5
        assert store.read_json(LOCK)[0] == f"pid {os.getpid()} on {store.read_json(LOCK)[0].split()[-1]}"


def test_a_writer_that_lost_its_lease_stops(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.2)
    monkeypatch.setattr(lock, "SETTLE_SECONDS", 0.1)

    def work() -> None:
        with only_writer(store):
            for beat in range(100):  # one write alone may be lost under a beat of ours
                store.write_json(LOCK, ["pid 1 on elsewhere", "theirs", beat])
                time.sleep(0.1)

    with pytest.raises(StorageError, match="took it for abandoned"):
        work()
    assert store.read_json(LOCK)[1] == "theirs"


def test_recordings_in_a_bucket_are_those_of_the_folder(store: Store, tmp_path: Path) -> None:
    options = FactoryOptions(
        machines=("fan", "valve"), train_source=3, train_target=1, test_per_condition=1, seconds=1.0, external=0
    )
    make_factory(tmp_path / "factory", options)
    (tmp_path / "factory" / "fan" / "train" / "section_00_source_train_normal_0099_x.wav").write_bytes(b"")
    for path in (tmp_path / "factory").rglob("*"):
        if path.is_file():
            store.child(*path.parent.relative_to(tmp_path).parts).write(path.name, path.read_bytes())
    ours, theirs = scan([tmp_path / "factory"]), scan([f"{store.uri}/factory"])
    told = [name for name in ours.column_names if name not in ("path", "mtime_ns")]
    assert theirs.select(told).equals(ours.select(told))
    assert read_file(theirs["path"][0].as_py()) == Path(ours["path"][0].as_py()).read_bytes()
    seen = scan([f"{store.uri}/factory"], known=theirs)  # nothing is read twice
    assert seen.equals(theirs)
    with pytest.raises(DataError, match="nowhere is not a folder"):
        scan([f"{store.uri}/nowhere"])
    truth = read_truth(tmp_path / "factory")
    store.write_table("clips.parquet", ours)
    store.write("truth.csv", pa_csv(truth))
    for name in ("factory", "clips.parquet", "truth.csv"):
        assert read_truth(f"{store.uri}/{name}").sort_by("file_name").equals(truth.sort_by("file_name")), name
    shutil.rmtree(tmp_path / "factory")
