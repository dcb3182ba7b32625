"""Downloads from a server that drops, lies, ignores ranges and is away for a while."""

import hashlib
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest
from archive_server import ArchiveServer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import ROOT

from orchestrator.data.download import Patience, download, fault_of, part_of
from orchestrator.data.receiving import Expected
from orchestrator.errors import DataError, StorageError

DATA = bytes(range(256)) * 1024  # 256 KiB
GOOD = Expected(len(DATA), hashlib.md5(DATA).hexdigest())
FAST = Patience(attempts=3, pause_seconds=0.001, timeout_seconds=5.0)
PATH = "/files/a.zip"


@pytest.fixture
def server() -> Iterator[ArchiveServer]:
    server = ArchiveServer()
    server.files[PATH] = DATA
    yield server
    server.close()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "archives" / "a.zip"


def fetch(server: ArchiveServer, target: Path, expected: Expected = GOOD, **options) -> bool:
    return download([server.url(PATH)], target, expected, **{"patience": FAST, **options})


def test_a_file_arrives_whole_and_is_not_asked_for_again(server, target):
    seen: list[tuple[int, int | None]] = []
    assert fetch(server, target, on_progress=lambda done, total: seen.append((done, total)))
    assert target.read_bytes() == DATA
    assert seen[-1] == (len(DATA), len(DATA))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert not part_of(target).exists()
    assert not fetch(server, target)
    assert len(server.asked) == 1


@pytest.mark.parametrize("expected", [GOOD, Expected()], ids=["known", "unknown"])
def test_a_dropped_connection_goes_on_at_the_byte_where_it_broke(server, target, expected):
    server.plans[PATH] = [{"drop_after": 100_000}, {"drop_after": 50_000}]
    assert fetch(server, target, expected)
    assert target.read_bytes() == DATA
    assert server.ranges(PATH) == ["", "bytes=100000-", "bytes=150000-"]


def test_any_number_of_drops_is_survived_as_long_as_bytes_arrive(server, target):
    server.plans[PATH] = [{"drop_after": 10_000}] * 20
    assert fetch(server, target, patience=FAST._replace(attempts=1))
    assert target.read_bytes() == DATA


def test_a_silent_connection_is_given_up_and_taken_up_again(server, target):
    server.plans[PATH] = [{"stall_after": 1000}]
    assert fetch(server, target, patience=FAST._replace(timeout_seconds=0.2))
    assert target.read_bytes() == DATA
    assert server.ranges(PATH) == ["", "bytes=1000-"]


def test_a_server_without_ranges_starts_cleanly_again(server, target):
    server.plans[PATH] = [{"drop_after": 200_000}, {"ignore_range": True}]
    assert fetch(server, target)
    assert target.read_bytes() == DATA


def test_wrong_bytes_never_get_the_name_and_the_message_tells_both_sums(server, target):
    wrong = b"x" * len(DATA)
    server.files[PATH] = wrong
    with pytest.raises(DataError) as caught:
        fetch(server, target)
    message = str(caught.value)
    assert hashlib.md5(wrong).hexdigest() in message
    assert GOOD.md5 in message
    assert server.url(PATH) in message
    assert not target.exists()
    assert not part_of(target).exists()
    assert len(server.asked) == 1  # the same bytes again would be as wrong


def test_bytes_of_another_file_in_the_part_cost_one_more_try(server, target):
    target.parent.mkdir()
    part_of(target).write_bytes(b"old" * 1000)
    assert fetch(server, target)
    assert target.read_bytes() == DATA
    assert server.ranges(PATH) == ["bytes=3000-", ""]


def test_a_wrong_server_that_drops_does_not_go_on_for_ever(server, target):
    server.files[PATH] = b"x" * len(DATA)
    server.plans[PATH] = [{"drop_after": 1000}, {}] * 10
    with pytest.raises(DataError, match="wrong bytes"):
        fetch(server, target)
    assert len(server.asked) <= 6


def test_a_part_longer_than_the_file_starts_anew(server, target):
    target.parent.mkdir()
    part_of(target).write_bytes(DATA + b"more")
    assert fetch(server, target, Expected())
    assert target.read_bytes() == DATA


@pytest.mark.parametrize("expected", [GOOD, Expected()], ids=["known", "unknown"])
def test_a_part_that_is_whole_only_needs_its_name(server, target, expected):
    target.parent.mkdir()
    part_of(target).write_bytes(DATA)
    assert fetch(server, target, expected)
    assert target.read_bytes() == DATA


def test_a_damaged_file_under_the_final_name_is_replaced(server, target):
    target.parent.mkdir()
    target.write_bytes(DATA[:-1] + b"?")
    assert "expected " + GOOD.md5 in fault_of(target, GOOD)
    assert fetch(server, target)
    assert target.read_bytes() == DATA


def test_a_missing_file_is_told_at_once(server, target):
    with pytest.raises(DataError, match=r"a\.zip.*\n.*HTTP 404 Not Found\n.*--mirror URL.*--from DIR"):
        download([server.url("/files/none/a.zip")], target, GOOD, patience=FAST)
    assert len(server.asked) == 1


def test_a_busy_server_is_asked_again_after_the_time_it_names(server, target):
    server.plans[PATH] = [{"status": 503, "headers": {"Retry-After": "1"}}, {"status": 429}]
    begin = time.monotonic()
    assert fetch(server, target)
    assert 1.0 <= time.monotonic() - begin < 3.0
    assert target.read_bytes() == DATA


def test_a_server_that_stays_away_ends_after_the_attempts(server, target):
    server.plans[PATH] = [{"status": 503}] * 9
    with pytest.raises(DataError, match="HTTP 503"):
        fetch(server, target)
    assert len(server.asked) == FAST.attempts


def test_nobody_listening_is_explained(target):
    server = ArchiveServer()
    server.close()
    with pytest.raises(DataError, match=r"no answer: .*refused"):
        fetch(server, target)


def test_a_mirror_goes_on_where_another_one_stopped(server, target):
    server.files["/mirror/a.zip"] = DATA
    server.plans[PATH] = [{"drop_after": 70_000}, *[{"status": 500}] * 9]
    urls = [server.url(PATH), server.url("/mirror/a.zip")]
    assert download(urls, target, GOOD, patience=FAST)
    assert target.read_bytes() == DATA
    assert server.asked == [(PATH, ""), ("/mirror/a.zip", "bytes=70000-")]


def test_a_mirror_with_wrong_bytes_is_left(server, target):
    server.files["/mirror/a.zip"] = b"y" * len(DATA)
    assert download([server.url("/mirror/a.zip"), server.url(PATH)], target, GOOD, patience=FAST)
    assert target.read_bytes() == DATA


@pytest.mark.parametrize("lie", [len(DATA) - 7, len(DATA) + 7])
def test_a_wrong_content_length_is_noticed(server, target, lie):
    server.plans[PATH] = [{"content_length": lie}]
    assert fetch(server, target)  # the second answer is right
    assert target.read_bytes() == DATA
    target.unlink()
    server.plans[PATH] = [{"content_length": lie}] * 9
    with pytest.raises(DataError, match=f"offers {lie} bytes, expected {len(DATA)}"):
        fetch(server, target)
    assert not target.exists()


def test_too_large_a_content_length_without_any_metadata_is_settled_by_a_range(server, target):
    server.plans[PATH] = [{"content_length": len(DATA) + 7}]
    assert fetch(server, target, Expected())
    assert target.read_bytes() == DATA


def test_another_range_than_asked_is_refused(server, target):
    server.plans[PATH] = [{"drop_after": 1000}, {"headers": {"Content-Range": f"bytes 7-{len(DATA)}/{len(DATA)}"}}]
    with pytest.raises(DataError, match="another range than asked"):
        fetch(server, target)
    assert part_of(target).read_bytes() == DATA[:1000]


def test_a_full_disk_is_told_before_anything_is_written(server, target, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1, 1, 1000))
    with pytest.raises(StorageError, match=r"needs 262,144 more bytes, its disk has 1,000"):
        fetch(server, target)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_fills_up_is_a_storage_error(server, target):
    target.parent.mkdir()
    part_of(target).symlink_to("/dev/full")
    with pytest.raises(StorageError, match="the disk is full"):
        fetch(server, target)


def test_other_schemes_are_refused(target):
    with pytest.raises(DataError, match="needs http:// or https://"):
        download(["file:///etc/passwd"], target, patience=FAST)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.one_of(
            st.integers(1, 200_000).map(lambda size: {"drop_after": size}),
            st.integers(1, 200_000).map(lambda size: {"drop_after": size, "ignore_range": True}),
            st.sampled_from([{"status": 503}, {"status": 500}, {"content_length": 3}]),
        ),
        max_size=6,
    )
)
def test_whatever_goes_wrong_the_file_is_right_or_not_there(server, tmp_path, plan):
    target = tmp_path / "a.zip"
    target.unlink(missing_ok=True)
    part_of(target).unlink(missing_ok=True)
    server.plans[PATH] = list(plan)
    assert fetch(server, target, patience=FAST._replace(attempts=8))
    assert target.read_bytes() == DATA


def test_a_killed_process_loses_no_byte_that_arrived(server, target):
    server.plans[PATH] = [{"stall_after": 123_456}]
    code = (
        "import sys; from pathlib import Path; from orchestrator.data.download import download;"
        "download([sys.argv[1]], Path(sys.argv[2]))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, server.url(PATH), str(target)], cwd=ROOT)
    limit = time.monotonic() + 30
    while not (part_of(target).exists() and part_of(target).stat().st_size == 123_456):
        assert time.monotonic() < limit
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not target.exists()
    assert fetch(server, target)
    assert server.ranges(PATH) == ["", "bytes=123456-"]
    assert target.read_bytes() == DATA
