"""Files are whole or absent, and a study has one writer."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.errors import StorageError
from orchestrator.lock import only_writer
from orchestrator.storage import Store

HOLD = """
import sys, time
from orchestrator.lock import only_writer
from orchestrator.storage import Store
with only_writer(Store.at(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_what_is_written_is_read_back_and_replaced(tmp_path: Path) -> None:
    store = Store.at(tmp_path / "a" / "b")
    assert not store.exists("x.json")
    store.write_json("x.json", {"k": 1})
    store.write_json("x.json", {"k": 2})
    assert store.read_json("x.json") == {"k": 2}
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["x.json"]


def test_a_file_in_the_way_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        Store.at(tmp_path / "file" / "sub").write("x", b"")


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path]).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        store = Store.at(tmp_path)
        store.write("x", b"old")
        with pytest.raises(StorageError, match=r"the disk is full.*run the same command again"):
            store.write("x", bytes(200_000))
        assert store.read("x") == b"old"
        assert [path.name for path in tmp_path.iterdir()] == ["x"]
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_a_read_only_folder_is_a_clear_error(tmp_path: Path) -> None:
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", tmp_path]).returncode:
        pytest.skip("mounting a read-only disk needs root")
    try:
        with pytest.raises(StorageError, match="read-only"):
            Store.at(tmp_path / "s").write("x", b"")
        with pytest.raises(StorageError, match="read-only"), only_writer(Store.at(tmp_path / "s")):
            pass
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_a_second_writer_is_refused_with_the_pid_and_place_of_the_first(tmp_path: Path) -> None:
    first = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        with pytest.raises(StorageError, match=f"pid {first.pid} on "), only_writer(Store.at(tmp_path)):
            pass
    finally:
        first.kill()
        first.wait()
    with only_writer(Store.at(tmp_path)):  # the kernel let go; the file that is still there means nothing
        pass
