"""The clip table: reading, rescanning, truth, checks, fingerprints, counts."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.data import clips as module
from orchestrator.data.clip_summary import summary
from orchestrator.data.clips import (
    CLIP_SCHEMA,
    check,
    fingerprint,
    join_truth,
    machines_without_attributes,
    read_clips,
    read_table,
    scan,
    write_table,
)
from orchestrator.data.dcase import find_clips
from orchestrator.errors import DataError, StorageError

NOISE = np.random.default_rng(1).integers(-9000, 9000, 3200).astype(np.int16)
TRAIN = "section_00_source_train_normal_0000_n_A"
TARGET = "section_00_target_train_normal_0000_n_B"
PLAIN = "section_00_source_train_normal_0000_noAttribute"


def shared() -> Path:
    root = next(parent for parent in Path(__file__).resolve().parents if (parent / "pyproject.toml").exists())
    if not (root.parent / "shared").is_dir():
        pytest.skip("needs the recordings in ../shared")
    return root.parent / "shared"


def record(path: Path, samples=NOISE, rate=16000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, subtype="PCM_16")
    return path


@pytest.fixture
def data(tmp_path) -> Path:
    """Two machines, the second without attributes; every clip has its own content."""
    files = [f"fan/train/{TRAIN}", f"fan/train/{TARGET}", "fan/test/section_00_0001", "fan/test/section_00_0002"]
    files += [f"pump/train/{PLAIN}", "pump/test/section_00_source_test_anomaly_0000_noAttribute"]
    for shift, file in enumerate(files):
        record(tmp_path / "data" / f"{file}.wav", np.roll(NOISE, shift))
    return tmp_path / "data"


def truth(*rows) -> pa.Table:
    keys = ("machine", "file_name", "is_anomaly", "is_target")
    return pa.Table.from_pylist([dict(zip(keys, row, strict=True)) for row in rows])


def by_id(table: pa.Table) -> dict[str, dict]:
    return {row["clip_id"]: row for row in table.to_pylist()}


def with_column(table: pa.Table, name: str, values: list) -> pa.Table:
    index = CLIP_SCHEMA.get_field_index(name)
    return table.set_column(index, name, pa.array(values, CLIP_SCHEMA.field(name).type))


def test_read_clips_fills_rows_and_returns_samples_in_order(data):
    (data / "fan/train/broken.wav").write_bytes(b"")
    (data / "fan/train" / f"{TRAIN.replace('0000', '0001')}.wav").write_bytes(b"")
    found = find_clips([data]).clips
    rows, samples = read_clips(found, 0.1)
    assert rows.schema == CLIP_SCHEMA
    assert rows["clip_id"].to_pylist() == found["clip_id"].to_pylist()
    assert rows["samples"].to_pylist() == [len(wave) for wave in samples] == [3200, 3200, 0, 3200, 0, 3200, 3200, 3200]
    problems = rows["problem"].to_pylist()
    assert problems[2].startswith("name: not a known form")
    assert problems[4] == "empty file"
    np.testing.assert_array_equal(samples[3], NOISE)
    again, _ = read_clips(rows, 0.1)
    assert again.equals(rows)


def test_the_digest_is_of_the_content_whatever_the_container(tmp_path):
    record(tmp_path / "a/fan/train" / f"{TRAIN}.wav")
    record(tmp_path / "b/fan/train" / f"{TRAIN}.flac")
    wav, flac = (scan([tmp_path / name]) for name in "ab")
    assert wav["digest"] == flac["digest"]
    assert fingerprint(wav) == fingerprint(flac)
    record(tmp_path / "b/fan/train" / f"{TRAIN}.flac", np.append(NOISE[:-1], NOISE[-1] ^ 1))
    assert fingerprint(scan([tmp_path / "b"])) != fingerprint(wav)


def test_a_vanished_file_is_a_bad_clip(data):
    found = find_clips([data]).clips
    (data / "pump/train" / f"{PLAIN}.wav").unlink()
    rows, _ = read_clips(found, 0.1)
    assert by_id(rows)[f"pump/train/{PLAIN}"]["problem"] == "cannot read: No such file or directory"


def test_scan_reads_only_what_changed(data, monkeypatch):
    first = scan([data])
    silent = data / "pump/train/section_00_source_train_normal_0001_noAttribute.wav"
    record(silent, 0 * NOISE)
    record(data / "fan/train" / f"{TRAIN}.wav", -NOISE)
    os.utime(data / "fan/train" / f"{TARGET}.wav", ns=(1, 1))
    read = []
    decode = module.decode
    monkeypatch.setattr(module, "decode", lambda raw, name, limit: read.append(name) or decode(raw, name, limit))
    second = scan([data], known=first)
    assert sorted(read) == sorted([f"{TRAIN}.wav", f"{TARGET}.wav", silent.name])
    assert by_id(second)[f"pump/train/{silent.stem}"]["problem"] == "silent: all samples are equal"
    assert by_id(second)[f"fan/train/{TRAIN}"]["digest"] != by_id(first)[f"fan/train/{TRAIN}"]["digest"]
    assert second.equals(scan([data], workers=1))
    read.clear()
    scan([data], known=second)
    assert read == [silent.name], "a bad clip is tried again"
    silent.unlink()
    longer = scan([data], min_seconds=1.0, known=second)
    assert set(longer["problem"].to_pylist()) == {"too short: 0.2 s, at least 1 s needed"}


def test_scan_reports_progress_and_notes(data, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_CLIPS", 2)
    record(data / "fan/supplemental/x.wav")
    steps, notes = [], []
    scan([data], on_progress=lambda done, total: steps.append((done, total)), on_note=notes.append)
    assert steps == [(2, 6), (4, 6), (6, 6)]
    assert len(notes) == 1
    assert "supplemental: 1 audio files" in notes[0]


def test_truth_fills_label_and_domain_of_test_clips_only(data):
    clips = scan([data])
    told = truth(("fan", "section_00_0001.wav", True, False), ("fan", "section_00_0002.flac", False, True))
    joined = join_truth(clips, told)
    rows = by_id(joined)
    assert (rows["fan/test/section_00_0001"]["label"], rows["fan/test/section_00_0001"]["domain"]) == (
        "anomaly",
        "source",
    )
    assert (rows["fan/test/section_00_0002"]["label"], rows["fan/test/section_00_0002"]["domain"]) == (
        "normal",
        "target",
    )
    assert [row for row in joined.to_pylist() if row["split"] == "train"] == [
        row for row in clips.to_pylist() if row["split"] == "train"
    ]
    assert join_truth(joined, told).equals(joined)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("fan", "section_00_0009.wav", True, True)], "fan/section_00_0009: no such test clip"),
        ([("fan", f"{TRAIN}.wav", False, False)], "no such test clip"),
        (
            [("fan", "section_00_0001.wav", True, True), ("fan", "section_00_0001.wav", False, True)],
            "two truth rows that contradict",
        ),
        (
            [("pump", "section_00_source_test_anomaly_0000_noAttribute.wav", False, False)],
            "the truth says normal, its name says anomaly",
        ),
        (
            [("pump", "section_00_source_test_anomaly_0000_noAttribute.wav", True, True)],
            "the truth says target, its name says source",
        ),
    ],
)
def test_truth_that_does_not_fit_is_refused(data, rows, message):
    with pytest.raises(DataError, match=message):
        join_truth(scan([data]), truth(*rows))


def test_bad_clips_stop_a_run_unless_their_number_is_allowed(data):
    (data / "fan/test/section_00_0003.wav").write_bytes(b"")
    clips = scan([data])
    with pytest.raises(DataError, match=r"(?s)^1 clips cannot.*max_bad_clips=1:.*section_00_0003.wav: empty file$"):
        check(clips)
    usable = check(clips, max_bad_clips=1)
    assert len(usable) == len(clips) - 1
    assert set(usable["problem"].to_pylist()) == {""}


def test_a_long_list_names_twenty_and_counts_the_rest(data):
    clips = pa.concat_tables([scan([data])] * 4)
    with pytest.raises(DataError, match=r"(?s)^24 clips.*\.\.\. and 4 more$") as error:
        check(with_column(clips, "problem", ["empty file"] * 24), max_bad_clips=3)
    assert str(error.value).count("empty file") == 20


def test_a_run_needs_training_clips_of_every_tested_section(data):
    record(data / "fan/test/section_01_0001.wav")
    clips = scan([data])
    with pytest.raises(DataError, match="of their section: fan section_01; add the folder"):
        check(clips)
    tests = clips.filter([split == "test" for split in clips["split"].to_pylist()])
    with pytest.raises(DataError, match="no usable training clip"):
        check(tests)
    (data / "fan/test/section_01_0001.wav").unlink()
    assert len(check(scan([data]))) == 6


@given(order=st.permutations(range(4)))
def test_fingerprint_knows_content_not_order_or_place(order):
    def table(positions, folder):
        blank = dict.fromkeys(CLIP_SCHEMA.names)
        rows = [
            blank | {"clip_id": f"m/train/{k}", "digest": f"{k:02x}", "split": "train", "path": f"{folder}/{k}"}
            for k in positions
        ]
        return pa.Table.from_pylist(
            [row | {"domain": "source", "attribute": "n_A"} for row in rows], schema=CLIP_SCHEMA
        )

    base = table(range(4), "a")
    assert fingerprint(table(order, "b")) == fingerprint(base)
    assert fingerprint(table(order[:3], "a")) != fingerprint(base)
    for column in ("clip_id", "digest", "split", "domain", "attribute"):
        changed = with_column(base, column, [*base[column].to_pylist()[:3], "other"])
        assert fingerprint(changed) != fingerprint(base)


def test_summary_counts_by_hand(data):
    record(data / "pump/train/section_01_source_train_normal_0005_noAttribute.wav", np.stack([NOISE, NOISE], 1), 8000)
    (data / "fan/test/section_00_0003.wav").write_bytes(b"")
    fan, pump = summary(scan([data]))
    assert (fan.machine, fan.train_source, fan.train_target, fan.attributes, fan.bad) == ("fan", 1, 1, "2", 1)
    assert fan.test == {"unknown": (0, 0, 2)}
    assert fan.seconds == (0.2, 0.2)
    assert (pump.train_source, pump.train_target, pump.attributes, pump.bad) == (2, 0, "none", 0)
    assert pump.test == {"source": (0, 1, 0)}
    assert pump.seconds == (0.2, 0.4)
    assert pump.notes == ("resampled from 8000 Hz", "2 channels, the first is used", "2 sections")


def test_machines_without_attributes_come_from_training_clips(data):
    record(data / "pump/test/section_00_source_test_normal_0003_n_A.wav")
    assert machines_without_attributes(scan([data])) == ("pump",)
    record(data / "pump/train/section_00_source_train_normal_0009_n_A.wav")
    assert machines_without_attributes(scan([data])) == ()


def test_tables_are_written_whole_and_read_with_a_check(data, tmp_path):
    clips = scan([data])
    path = tmp_path / "year=2024/clips.parquet"  # no column may come from the folder's name
    write_table(clips, path)
    write_table(clips, path)
    assert read_table(path).equals(clips)
    assert os.listdir(path.parent) == ["clips.parquet"]
    pq.write_table(clips.drop_columns(["digest"]), path)
    with pytest.raises(DataError, match="not a clip table, it differs in: digest"):
        read_table(path)
    path.write_text("no parquet")
    for wrong in (path, tmp_path / "absent.parquet"):
        with pytest.raises(DataError, match="asd scan ROOT"):
            read_table(wrong)
    with pytest.raises(StorageError, match="cannot write"):
        write_table(clips, path / "clips.parquet")


def test_real_recordings():
    clips = scan([shared() / "data" / "real_mini"])
    assert [clips["split"].to_pylist().count(split) for split in ("train", "test")] == [63, 96]
    assert machines_without_attributes(clips) == ("ToyConveyor", "pump", "slider")
    assert len(check(clips)) == 159
    assert len(set(clips["digest"].to_pylist())) == 159
    assert {row.seconds for row in summary(clips)} == {(10.0, 10.0), (11.0, 11.0)}
