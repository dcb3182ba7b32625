"""What is there of AudioSet's machine classes, by its lists."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.data.audioset_report import coverage, write_missing
from orchestrator.errors import DataError

SEGMENTS = """# YTID, start_seconds, end_seconds, positive_labels
-0abc, 30.000, 40.000, "/m/09x0r,/m/0d31p"
Yb_1_2, 0.000, 10.000, "/m/0d31p,/m/02mk9"
cat00, 0.000, 10.000, "/m/01yrx"
gone0, 0.000, 10.000, "/m/02mk9"
"""


def test_listed_clips_of_the_machine_classes_are_counted(tmp_path):
    segments, audio = tmp_path / "segments.csv", tmp_path / "audio"
    segments.write_text(SEGMENTS)
    audio.mkdir()
    for name in ("-0abc_30.000_40.000.wav", "Yb_1_2.flac", "cat00.wav", "other.wav"):
        (audio / name).write_bytes(b"")
    pq.write_table(pa.table({"video_id": ["-0abc", "Yb_1_2", "cat00"]}), tmp_path / "a.parquet")
    for report in (coverage(segments, audio=audio), coverage(segments, parquet=tmp_path)):
        assert (report.listed, report.there, len(report.classes)) == (3, 2, 28)
        assert report.missing == {"gone0": ("/m/02mk9",)}
        assert report.classes["Vacuum cleaner"] == (2, 2)
        assert report.classes["Engine"] == (2, 1)
        assert sum(listed for listed, _ in report.classes.values()) == 4
    write_missing(report, tmp_path / "missing.csv")
    assert (tmp_path / "missing.csv").read_text() == "video_id,labels\ngone0,/m/02mk9\n"


def test_copies_of_audioset_that_cannot_be_read_are_named(tmp_path):
    segments = tmp_path / "segments.csv"
    segments.write_text(SEGMENTS)
    with pytest.raises(DataError, match=r"--audio DIR .* or --parquet DIR"):
        coverage(segments)
    with pytest.raises(DataError, match=r"no \.parquet file below"):
        coverage(segments, parquet=tmp_path)
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet is no Parquet file with a column video_id"):
        coverage(segments, parquet=tmp_path)
    segments.write_text("-0abc;30;40\n")
    with pytest.raises(DataError, match=r"segments\.csv:1: expected"):
        coverage(segments, parquet=tmp_path)
    with pytest.raises(DataError, match="cannot read the segments CSV"):
        coverage(tmp_path / "none.csv", parquet=tmp_path)


def test_the_real_lists_hold_all_classes(shared):
    external = shared / "data" / "external"
    report = coverage(external / "balanced_train_segments.csv", parquet=external)
    assert report.listed > 1000
    assert all(listed for listed, _ in report.classes.values())
