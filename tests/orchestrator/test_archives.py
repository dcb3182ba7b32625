"""The table of archives, the metadata of their records, and unpacking that archives cannot abuse."""

import csv
import hashlib
import json
import os
import shutil
import stat
import zipfile
from collections import Counter, namedtuple
from pathlib import Path

import pytest
from archive_server import ArchiveServer, dev_archive, recording, zipped
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.data.archives import Archive, Records, choose, place_of, read_archives, read_record
from orchestrator.data.download import Patience
from orchestrator.data.receiving import Expected
from orchestrator.data.unpacking import unpack
from orchestrator.errors import DataError, StorageError

FAN = Archive(2024, "dev", "fan", "https://zenodo.org/records/10902294/files/dev_fan.zip")
ONCE = Patience(attempts=1, pause_seconds=0, timeout_seconds=5)


def test_the_table_holds_what_the_list_of_archives_says(shared):
    with (shared / "golden" / "dcase_archives.csv").open(newline="") as file:
        golden = {(row["data_set"], row["machine"], row["url"]) for row in csv.DictReader(file)}
    table = read_archives()
    assert {(f"DCASE{a.year}T2", a.machine, a.url) for a in table} == golden
    assert len(table) == len(golden)


def test_every_machine_of_a_subset_has_one_archive():
    table = read_archives()
    assert max(Counter((a.year, a.subset, a.machine) for a in table).values()) == 1
    assert Counter(a.subset for a in table if a.year == 2024) == {"dev": 7, "additional": 9, "eval": 9}
    assert {a.year for a in table} == set(range(2020, 2027))
    for archive in table:
        assert ("train" in archive.file_name) == (archive.subset == "additional")
        assert ("test" in archive.file_name) == (archive.subset == "eval")
        assert archive.machine in archive.file_name


def test_an_archive_knows_its_record_and_its_places():
    assert (FAN.record, FAN.file_name) == ("10902294", "dev_fan.zip")
    assert place_of(FAN) == FAN.url
    assert place_of(FAN, "http://mirror/dcase/") == "http://mirror/dcase/dev_fan.zip"
    assert place_of(FAN, "http://mirror/{record}/x/{file}") == "http://mirror/10902294/x/dev_fan.zip"


def test_choosing_names_what_there_is():
    table = read_archives()
    chosen = choose(table, 2024, ["dev", "additional"], ["fan", "Scanner"])
    assert [(a.subset, a.machine) for a in chosen] == [("dev", "fan"), ("additional", "Scanner")]
    with pytest.raises(DataError, match=r"no year '1999'.* There are: 2020, 2021"):
        choose(table, 1999, ["dev"])
    with pytest.raises(DataError, match=r"no subset 'dve'.* did you mean dev\?"):
        choose(table, 2024, ["dve"])
    with pytest.raises(DataError, match=r"no machine 'toycar'.* did you mean ToyCar\? There are: ToyCar, ToyTrain"):
        choose(table, 2024, ["dev"], ["toycar"])


def test_every_wrong_line_of_a_table_is_named(tmp_path):
    table = tmp_path / "table.csv"
    table.write_text(
        "year,subset,machine,url\n24,dev,fan,https://h/records/1/files/a.zip\n2024,test,fan,https://h/records/1/files/a.zip\n"
        "2024,dev,../fan,https://h/records/1/files/a.zip\n2024,dev,fan,https://h/records/1/files/../a.zip\n2024\n"
    )
    with pytest.raises(DataError) as caught:
        read_archives(table)
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[0] for line in lines] == [f"{table}:{k}" for k in range(2, 7)]
    table.write_text("machine,url\n")
    with pytest.raises(DataError, match="needed: year, subset, machine, url"):
        read_archives(table)
    with pytest.raises(DataError, match="--table FILE"):
        read_archives(tmp_path / "none.csv")


def test_metadata_is_asked_for_once_and_kept(tmp_path):
    server = ArchiveServer()
    server.publish("10902294", {"dev_fan.zip": b"123"})
    try:
        kept = tmp_path / "archives"
        records = Records([kept], server.url("/api"), patience=ONCE, keep=kept)
        assert records.expected(FAN) == Expected(3, hashlib.md5(b"123").hexdigest())
        records.expected(FAN)
        assert len(server.asked) == 1
        with pytest.raises(DataError, match=r"no file dev_x\.zip; it has: dev_fan\.zip"):
            records.expected(FAN._replace(url=FAN.url.replace("fan", "x")))
    finally:
        server.close()
    assert Records([kept], server.url("/api"), patience=ONCE).expected(FAN) == Expected(
        3, hashlib.md5(b"123").hexdigest()
    )
    offline = Records([], server.url("/api"), patience=ONCE)
    assert offline.expected(FAN) is None
    assert "no answer" in offline.faults["10902294"]


@pytest.mark.parametrize(
    "value", [[], {}, {"files": [{"key": "a", "size": 1}]}, {"files": [{"key": "a", "size": 1, "checksum": "sha1:12"}]}]
)
def test_other_metadata_is_refused(value):
    with pytest.raises(DataError, match="here is not a record's metadata"):
        read_record(json.dumps(value).encode(), "here")


def archive_of(folder: Path, members) -> Path:
    path = folder / "dev_fan.zip"
    path.write_bytes(zipped(members))
    return path


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("wrap", ["fan/", "", "dev_data/fan/", "./fan/", "Fan/"])
def test_clips_come_out_in_one_layout_whatever_wraps_them(tmp_path, wrap):
    members = {"train/a.wav": b"1", "source_test/b.wav": b"22", "attributes_00.csv": b"x", "supplemental/c.wav": b"333"}
    shadows = [(f"__MACOSX/{wrap}train/._a.wav", b"s"), (f"{wrap}.DS_Store", b"s"), (f"{wrap}train/", b"")]
    archive = archive_of(tmp_path, [*((wrap + name, data) for name, data in members.items()), *shadows])
    unpacked = unpack(archive, tmp_path / "dev" / "fan")
    assert files_in(tmp_path / "dev") == {f"fan/{name}" for name in members}
    assert unpacked == ({name: len(data) for name, data in members.items()}, 4)


def test_unpacking_again_keeps_what_is_right_and_repairs_what_is_not(tmp_path):
    archive = archive_of(
        tmp_path, [("fan/train/a.wav", b"aaaa"), ("fan/train/b.wav", b"bbbb"), ("fan/test/c.wav", b"cc")]
    )
    fan = tmp_path / "dev" / "fan"
    unpack(archive, fan)
    (fan / "train/a.wav").write_bytes(b"AAAA")  # of the right size: kept
    (fan / "train/b.wav").write_bytes(b"b")
    (fan / "test/c.wav").unlink()
    assert unpack(archive, fan).written == 2
    assert [(fan / name).read_bytes() for name in ("train/a.wav", "train/b.wav", "test/c.wav")] == [
        b"AAAA",
        b"bbbb",
        b"cc",
    ]


def test_a_folder_has_its_name_only_when_it_is_whole(tmp_path, monkeypatch):
    archive = archive_of(tmp_path, [(f"fan/train/{k}.wav", bytes([k]) * 9) for k in range(9)])
    fan = tmp_path / "dev" / "fan"
    copy, copies = shutil.copyfileobj, []

    def interrupted(source, sink, length):
        copies.append(sink)
        if len(copies) == 5:
            sink.write(b"half")
            raise KeyboardInterrupt
        copy(source, sink, length)

    monkeypatch.setattr(shutil, "copyfileobj", interrupted)
    with pytest.raises(KeyboardInterrupt):
        unpack(archive, fan)
    assert not fan.exists()
    assert len([name for name in files_in(tmp_path / "dev") if name.endswith(".wav")]) == 4
    assert unpack(archive, fan).written == 5
    assert all((fan / f"train/{k}.wav").read_bytes() == bytes([k]) * 9 for k in range(9))


def link() -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("fan/train/link.wav")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("/etc/passwd", "absolute"),
        ("../outside.wav", "leads out"),
        ("fan/train/../../../outside.wav", "leads out"),
        ("fan/..", "leads out"),
        ("C:/windows/a.wav", "absolute"),
        ("c:a.wav", "absolute"),
        ("..\\outside.wav", "backslash"),
        ("fan\\train\\a.wav", "backslash"),
        (link(), "a link"),
    ],
    ids=str,
)
def test_path_tricks_are_refused_before_anything_is_written(tmp_path, name, why):
    archive = archive_of(tmp_path, [("fan/train/a.wav", b"good"), (name, b"evil")])
    with pytest.raises(DataError, match=f"not safe to unpack.*{why}"):
        unpack(archive, tmp_path / "dev" / "fan")
    assert files_in(tmp_path) == {"dev_fan.zip"}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text("a./\\:C~\0 ", min_size=1, max_size=12), min_size=1, max_size=4, unique=True))
def test_no_name_whatever_writes_outside_of_the_folder(tmp_path, names):
    root = tmp_path / "root"
    shutil.rmtree(root, ignore_errors=True)
    (root / "in").mkdir(parents=True)
    archive = archive_of(root, [("fan/train/a.wav", b"1"), *((f"fan/train/{name}", b"2") for name in names)])
    before = files_in(tmp_path)
    try:
        unpack(archive, root / "in" / "fan")
    except (DataError, StorageError):
        assert not (root / "in" / "fan").exists()
    assert {name for name in files_in(tmp_path) - before if not name.startswith("root/in/")} == set()


def test_an_archive_that_declares_more_than_the_disk_has_is_refused(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1, 1, 50_000_000))
    archive = archive_of(tmp_path, [("fan/train/zeros.wav", bytes(60_000_000))])
    assert archive.stat().st_size < 100_000
    with pytest.raises(StorageError, match=r"needs 60,000,000 more bytes, its disk has 50,000,000"):
        unpack(archive, tmp_path / "dev" / "fan")
    assert not (tmp_path / "dev" / "fan").exists()


def test_an_archive_that_lies_about_its_sizes_writes_no_more_than_it_declares(tmp_path):
    archive = archive_of(tmp_path, [("fan/train/a.wav", bytes(1_000_000))])
    data = archive.read_bytes()
    archive.write_bytes(data.replace((1_000_000).to_bytes(4, "little"), (1000).to_bytes(4, "little")))
    with pytest.raises(DataError, match="damaged"):
        unpack(archive, tmp_path / "dev" / "fan")
    assert all(path.stat().st_size <= 1000 for path in (tmp_path / "dev").rglob("*") if path.is_file())


def test_damaged_archives_are_named(tmp_path):
    archive = archive_of(tmp_path, [("fan/train/a.wav", os.urandom(1000))])
    data = bytearray(archive.read_bytes())
    data[500] ^= 255
    archive.write_bytes(data)
    with pytest.raises(DataError, match=r"dev_fan\.zip is damaged: .*fan/train/a\.wav"):
        unpack(archive, tmp_path / "dev" / "fan")
    assert not (tmp_path / "dev" / "fan").exists()
    archive.write_bytes(b"<html>sign in first</html>")
    with pytest.raises(DataError, match="damaged: File is not a zip file"):
        unpack(archive, tmp_path / "dev" / "fan")


def test_archives_of_something_else_are_refused(tmp_path):
    with pytest.raises(DataError, match="more than one machine \\(fan, pump\\)"):
        unpack(archive_of(tmp_path, [("fan/train/a.wav", b"1"), ("pump/train/a.wav", b"1")]), tmp_path / "dev/fan")
    with pytest.raises(DataError, match="no archive of recordings"):
        unpack(archive_of(tmp_path, [("readme.txt", b"1")]), tmp_path / "dev/fan")
    with pytest.raises(DataError, match="two files for one place"):
        unpack(archive_of(tmp_path, [("fan/train/a.wav", b"1"), ("./fan/train/a.wav", b"1")]), tmp_path / "dev/fan")
    assert files_in(tmp_path) == {"dev_fan.zip"}


def test_a_real_clip_survives(tmp_path):
    archive = tmp_path / "dev_fan.zip"
    archive.write_bytes(dev_archive("fan"))
    unpack(archive, tmp_path / "dev" / "fan")
    clip = tmp_path / "dev/fan/train/section_00_source_train_normal_0000_n_A.wav"
    assert clip.read_bytes() == recording(0)
