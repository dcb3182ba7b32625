"""`asd scan` as a user meets it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import soundfile
import typer
from typer.testing import CliRunner

from jobs.scan import scan
from orchestrator.data.clips import read_table
from orchestrator.errors import DataError

NOISE = np.random.default_rng(2).integers(-9000, 9000, 3200).astype(np.int16)


def record(path: Path, samples=NOISE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, 16000, subtype="PCM_16")


@pytest.fixture
def data(tmp_path) -> Path:
    record(tmp_path / "data/fan/train/section_00_source_train_normal_0000_n_A.wav")
    record(tmp_path / "data/fan/test/section_00_0001.wav", -NOISE)
    return tmp_path / "data"


def invoke(*args):
    app = typer.Typer()
    app.command()(scan)
    return CliRunner().invoke(app, [str(arg) for arg in args])


def test_a_whole_data_set_is_counted_and_kept(data, tmp_path):
    out = tmp_path / "kept/clips.parquet"
    result = invoke(data, "--out", out)
    assert result.exit_code == 0, result.output
    assert "unknown 0/0/1" in result.output
    assert f"2 clips, 0 of them bad; table: {out}" in result.output
    assert f"Next: asd plan configs/studies/my_machines.yaml 'data.root=[{data}]'\n" in result.output
    assert len(read_table(out)) == 2
    assert invoke(data, "--out", out).output.splitlines()[-2:] == result.output.splitlines()[-2:]


def test_bad_clips_are_listed_with_their_reasons(data, tmp_path):
    (data / "fan/train/section_00_source_train_normal_0001_n_A.wav").write_bytes(b"")
    record(data / "fan/test/section_00_0002.wav", 0 * NOISE)
    record(data / "fan/supplemental/section_00_0002.wav")
    result = invoke(data, "--out", tmp_path / "clips.parquet")
    assert result.exit_code == 1
    assert f"bad: {data}/fan/train/section_00_source_train_normal_0001_n_A.wav: empty file" in result.output
    assert "section_00_0002.wav: silent: all samples are equal" in result.output
    assert "supplemental: 1 audio files left aside" in result.output
    assert "data.max_bad_clips=2" in result.output
    assert len(read_table(tmp_path / "clips.parquet")) == 4


def test_released_truth_is_joined(data, tmp_path, monkeypatch):
    rows = [{"machine": "fan", "file_name": "section_00_0001.wav", "is_anomaly": True, "is_target": True}]
    fake = type(sys)("orchestrator.data.truth")
    fake.read_truth = lambda path: pa.Table.from_pylist(rows)
    monkeypatch.setitem(sys.modules, "orchestrator.data.truth", fake)
    result = invoke(data, "--out", tmp_path / "clips.parquet", "--truth", tmp_path / "truth.csv")
    assert result.exit_code == 0, result.output
    assert "target 0/1/0" in result.output
    assert "anomaly" in read_table(tmp_path / "clips.parquet")["label"].to_pylist()


def test_a_file_that_is_no_clip_table_is_not_overwritten(data, tmp_path):
    precious = tmp_path / "thesis.parquet"
    precious.write_text("three years of work")
    result = invoke(data, "--out", precious)
    assert isinstance(result.exception, DataError)
    assert precious.read_text() == "three years of work"


def test_a_folder_without_machines_is_explained(tmp_path):
    result = invoke(tmp_path, "--out", tmp_path / "clips.parquet")
    assert isinstance(result.exception, DataError)
    assert "asd synth data/demo" in str(result.exception)
    assert not (tmp_path / "clips.parquet").exists()


def test_importing_the_job_loads_nothing_heavy():
    code = "import sys, jobs.scan; print({'torch', 'ray', 'pyarrow', 'numpy'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"
