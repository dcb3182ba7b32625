"""A year of DCASE from a server or a folder to one data root, its truth beside it."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from archive_server import ArchiveServer, dev_archive, eval_archive, recording, zipped
from support import ROOT

from orchestrator.data.archives import Archive
from orchestrator.data.clips import join_truth, scan
from orchestrator.data.dcase import find_clips
from orchestrator.data.download import Patience
from orchestrator.data.known_truth import write_truth
from orchestrator.data.preparation import BROKEN, MISSING, PARTLY, THERE, UNPACKED, Sources, look, prepare
from orchestrator.data.truth import read_truth
from orchestrator.errors import DataError, StorageError
from orchestrator.lock import only_writer
from orchestrator.storage import Store

FAST = Patience(attempts=2, pause_seconds=0.001, timeout_seconds=5.0)
ARCHIVES = {
    ("dev", "fan"): ("11", "dev_fan.zip", dev_archive("fan")),
    ("dev", "ToyCar"): ("11", "dev_ToyCar.zip", dev_archive("ToyCar", 10)),
    ("additional", "Scanner"): (
        "22",
        "eval_data_Scanner_train.zip",
        zipped(
            [
                ("Scanner/train/" + n, recording(k))
                for k, n in enumerate(["section_00_source_train_normal_0000_n_A.wav"])
            ]
        ),
    ),
    ("eval", "Scanner"): ("33", "eval_data_Scanner_test.zip", eval_archive("Scanner")),
}
TRUTH = "machine,file_name,is_anomaly,is_target\nScanner,section_00_0001.wav,1,0\nScanner,section_00_0002.wav,0,1\n"


@pytest.fixture
def server() -> Iterator[ArchiveServer]:
    server = ArchiveServer()
    for record in ("11", "22", "33"):
        server.publish(record, {name: data for number, name, data in ARCHIVES.values() if number == record})
    yield server
    server.close()


@pytest.fixture
def sources(server) -> Sources:
    return Sources(api=server.url("/api"), patience=FAST)


def archives(server: ArchiveServer, *subsets: str) -> list[Archive]:
    return [
        Archive(2024, subset, machine, server.url(f"/records/{record}/files/{name}"))
        for (subset, machine), (record, name, _) in ARCHIVES.items()
        if subset in (subsets or ("dev", "additional", "eval"))
    ]


def states(rows) -> list[str]:
    return [row.state for row in rows]


def test_a_year_becomes_one_data_root(server, sources, tmp_path):
    rows = prepare(archives(server), tmp_path, sources)
    assert states(rows) == [UNPACKED] * 4
    assert [row.size for row in rows] == [len(data) for _, _, data in ARCHIVES.values()]
    assert {row.note for row in rows} == {""}
    found, notes = find_clips([tmp_path])
    assert notes == []
    places = sorted(zip(found["machine"].to_pylist(), found["split"].to_pylist(), strict=True))
    assert places == sorted(
        [("fan", "train"), ("fan", "test"), ("ToyCar", "train"), ("ToyCar", "test")] * 2
        + [("Scanner", "train")]
        + [("Scanner", "test")] * 2
    )
    assert set(found["problem"].to_pylist()) == {""}
    assert (tmp_path / "dev/fan/attributes_00.csv").is_file()
    assert (tmp_path / "archives/11/dev_fan.zip").read_bytes() == ARCHIVES["dev", "fan"][2]


def test_the_second_time_nothing_is_asked_or_written(server, sources, tmp_path):
    prepare(archives(server), tmp_path, sources)
    before = {
        path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file() and path.name != "run.lock"
    }
    server.asked.clear()
    assert states(prepare(archives(server), tmp_path, sources)) == [UNPACKED] * 4
    assert server.asked == []
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_archives_may_go_once_they_are_unpacked(server, sources, tmp_path):
    prepare(archives(server, "dev"), tmp_path, sources, keep_archives=False)
    assert not list(tmp_path.rglob("*.zip"))
    server.asked.clear()
    assert states(prepare(archives(server, "dev"), tmp_path, sources)) == [UNPACKED] * 2
    assert server.asked == []


def test_lost_recordings_are_noticed_and_brought_back(server, sources, tmp_path):
    prepare(archives(server, "dev"), tmp_path, sources)
    clip = tmp_path / "dev/fan/test/section_00_source_test_normal_0000_n_A.wav"
    whole = clip.read_bytes()
    clip.write_bytes(whole[:100])
    row = look(archives(server, "dev"), tmp_path, sources)[0]
    assert (row.state, row.note) == (BROKEN, f"1 of 5 files lost or of another size, first {clip}")
    assert states(prepare(archives(server, "dev"), tmp_path, sources)) == [UNPACKED] * 2
    assert clip.read_bytes() == whole


def test_a_look_tells_sizes_and_states_and_writes_nothing(server, sources, tmp_path):
    into = tmp_path / "data"
    rows = look(archives(server), into, sources)
    assert states(rows) == [MISSING] * 4
    assert rows[0].size == len(ARCHIVES["dev", "fan"][2])
    assert not into.exists()
    assert not any(path.endswith(".zip") for path, _ in server.asked)
    folder = into / "archives" / "11"
    folder.mkdir(parents=True)
    (folder / "dev_fan.zip").write_bytes(ARCHIVES["dev", "fan"][2])
    (folder / "dev_ToyCar.zip.part").write_bytes(b"12345")
    rows = look(archives(server, "dev"), into, sources)
    assert states(rows) == [THERE, PARTLY]
    assert rows[1].note == "5 bytes arrived"


def test_one_bad_archive_does_not_stop_the_others(server, sources, tmp_path):
    path = "/records/11/files/dev_fan.zip"
    server.files[path] = b"x" * len(server.files[path])
    rows = prepare(archives(server, "dev"), tmp_path, sources)
    assert states(rows) == [MISSING, UNPACKED]
    assert "wrong bytes: MD5 sum" in rows[0].note
    assert not (tmp_path / "dev" / "fan").exists()


def test_without_metadata_a_download_is_not_trusted_unless_one_says_so(server, sources, tmp_path):
    kept = server.files.pop("/api/records/11")
    rows = prepare(archives(server, "dev"), tmp_path, sources)
    assert states(rows) == [MISSING] * 2
    assert "no MD5 sum to check it by" in rows[0].note
    assert "--unchecked" in rows[0].note
    rows = prepare(archives(server, "dev"), tmp_path, sources._replace(unchecked=True))
    assert states(rows) == [UNPACKED] * 2
    assert "not checked" in rows[0].note
    server.files["/api/records/11"] = kept
    assert {row.note for row in prepare(archives(server, "dev"), tmp_path, sources)} == {""}
    other = json.loads(kept)
    other["files"][0]["checksum"] = "md5:" + "0" * 32
    (tmp_path / "archives/record_11.json").write_text(json.dumps(other))
    row = prepare(archives(server, "dev"), tmp_path, sources)[0]
    assert row.state == BROKEN
    assert "publishes " + "0" * 32 in row.note


def test_a_mirror_serves_what_the_record_does_not(server, sources, tmp_path):
    for path in [path for path in server.files if path.startswith("/records/11/")]:
        server.files[path.replace("/records/11/files", "/mirror")] = server.files.pop(path)
    rows = prepare(archives(server, "dev"), tmp_path, sources._replace(mirrors=[server.url("/mirror")]))
    assert states(rows) == [UNPACKED] * 2


@pytest.fixture
def offline(tmp_path) -> Path:
    folder = tmp_path / "disk"
    folder.mkdir()
    for _, name, data in list(ARCHIVES.values())[:2]:
        (folder / name).write_bytes(data)
    return folder


def test_a_folder_of_archives_is_checked_where_the_sum_is_known(server, sources, tmp_path, offline):
    (offline / "dev_ToyCar.zip").write_bytes(b"x" * len(ARCHIVES["dev", "ToyCar"][2]))
    rows = prepare(archives(server, "dev", "eval"), tmp_path / "data", sources._replace(folder=offline))
    assert states(rows) == [UNPACKED, BROKEN, MISSING]
    assert "MD5 sum" in rows[1].note
    assert "copy it again" in rows[1].note
    assert str(offline) in rows[2].note
    assert not any(path.endswith(".zip") for path, _ in server.asked)
    assert sorted(path.name for path in offline.iterdir()) == ["dev_ToyCar.zip", "dev_fan.zip"]


def test_offline_the_summary_says_that_nothing_was_checked(server, sources, tmp_path, offline):
    server.close()
    rows = prepare(archives(server, "dev"), tmp_path / "data", sources._replace(folder=offline))
    assert states(rows) == [UNPACKED] * 2
    assert {row.note for row in rows} == {"MD5 sum not checked: the record's metadata could not be had"}


def test_metadata_may_lie_beside_the_archives(server, sources, tmp_path, offline):
    (offline / "record_11.json").write_bytes(server.files["/api/records/11"])
    server.close()
    rows = prepare(archives(server, "dev"), tmp_path / "data", sources._replace(folder=offline), keep_archives=False)
    assert [(row.state, row.note) for row in rows] == [(UNPACKED, "")] * 2
    assert (offline / "dev_fan.zip").is_file()


def test_the_archives_of_one_folder_fill_another(server, sources, tmp_path):
    prepare(archives(server), tmp_path / "a", sources)
    server.close()
    rows = prepare(archives(server), tmp_path / "b", sources._replace(folder=tmp_path / "a" / "archives"))
    assert [(row.state, row.note) for row in rows] == [(UNPACKED, "")] * 4


def test_two_years_do_not_mix(server, sources, tmp_path):
    prepare(archives(server, "dev"), tmp_path, sources)
    server.publish("44", {"dev_fan.zip": dev_archive("fan", 50)})
    row = prepare([Archive(2025, "dev", "fan", server.url("/records/44/files/dev_fan.zip"))], tmp_path, sources)[0]
    assert row.state == BROKEN
    assert "of record 11, asked was dev_fan.zip of record 44; name another folder" in row.note


def test_two_processes_do_not_fill_one_folder(server, sources, tmp_path):
    with only_writer(Store.at(tmp_path)), pytest.raises(StorageError, match="is being written by pid"):
        prepare(archives(server, "dev"), tmp_path, sources)


def test_a_killed_preparation_goes_on_with_the_bytes_that_are_there(server, sources, tmp_path):
    path = "/records/11/files/dev_ToyCar.zip"
    server.plans[path] = [{"stall_after": 2000}]
    code = (
        "import sys; from pathlib import Path; from orchestrator.data.archives import Archive;"
        "from orchestrator.data.preparation import Sources, prepare;"
        "prepare([Archive(2024, 'dev', m, u) for m, u in (a.split('=') for a in sys.argv[3:])],"
        " Path(sys.argv[1]), Sources(api=sys.argv[2]))"
    )
    wanted = [f"{a.machine}={a.url}" for a in archives(server, "dev")]
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path), server.url("/api"), *wanted], cwd=ROOT)
    part = tmp_path / "archives/11/dev_ToyCar.zip.part"
    limit = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size == 2000):
        assert time.monotonic() < limit
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    server.asked.clear()
    assert states(prepare(archives(server, "dev"), tmp_path, sources)) == [UNPACKED] * 2
    assert server.asked == [(path, "bytes=2000-")]


def test_the_truth_is_joined_as_a_table(server, sources, tmp_path):
    into, given = tmp_path / "data", tmp_path / "given.csv"
    given.write_text(TRUTH + "Printer,section_00_0001.wav,1,1\n")
    prepare(archives(server), into, sources)
    assert write_truth(into) == (into / "truth.csv", 4, 0, 2, 0)
    assert write_truth(into, given) == (into / "truth.csv", 6, 2, 0, 1)
    assert write_truth(into) == (into / "truth.csv", 6, 2, 0, 0)  # what was given once stays known
    truth = read_truth(into / "truth.csv")
    rows = {(r["machine"], r["file_name"]): (r["is_anomaly"], r["is_target"]) for r in truth.to_pylist()}
    assert rows["Scanner", "section_00_0001.wav"] == (True, False)
    assert rows["fan", "section_00_target_test_anomaly_0000_n_A.wav"] == (True, True)
    joined = join_truth(scan([into], min_seconds=0.05), truth)  # as `asd scan --truth` does
    assert "unknown" not in joined["label"].to_pylist()


def test_a_truth_that_does_not_fit_is_refused(server, sources, tmp_path):
    into, given = tmp_path / "data", tmp_path / "given.csv"
    given.write_text(TRUTH)
    prepare(archives(server, "dev"), into, sources)
    with pytest.raises(DataError, match=r"names no test clip that is here.*--subset eval"):
        write_truth(into, given)
    given.write_text(TRUTH.splitlines()[0] + "\nfan,section_00_source_test_normal_0000_n_A.wav,1,0\n")
    with pytest.raises(DataError, match="says anomaly, its name says normal"):
        write_truth(into, given)
