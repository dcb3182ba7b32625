"""Which files some paths mean, and which machine each is of."""

import io
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.serving import sources
from orchestrator.serving.sources import find_recordings, machine_of, read_recording, section_of

KNOWN = ("fan", "pump")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("fan/test/b.wav", "fan/test/a.FLAC", "pump/x.wav", ".hidden/y.wav", "pump/.z.wav", "pump/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"audio")
    return tmp_path


def names(files: list[str], tree: Path) -> list[str]:
    return [os.path.relpath(file, tree) for file in files]


def test_a_folder_stands_for_its_audio_in_order(tree):
    assert names(find_recordings([str(tree)]), tree) == ["fan/test/a.FLAC", "fan/test/b.wav", "pump/x.wav"]


def test_patterns_folders_and_files_together_are_listed_once(tree):
    paths = [f"{tree}/pump/x.wav", f"{tree}/*/*.wav", f"{tree}/f*", f"{tree}/**/*.wav"]
    assert names(find_recordings(paths), tree) == ["pump/x.wav", "fan/test/a.FLAC", "fan/test/b.wav"]


def test_a_named_file_of_any_ending_is_taken(tree):
    assert names(find_recordings([f"{tree}/pump/notes.txt"]), tree) == ["pump/notes.txt"]


def test_a_file_whose_name_looks_like_a_pattern(tree):
    (tree / "odd[1].wav").write_bytes(b"")
    assert names(find_recordings([f"{tree}/odd[1].wav"]), tree) == ["odd[1].wav"]


def test_what_is_not_there_stays_in_the_list_and_reading_says_why(tree):
    (tree / "empty").mkdir()
    found = find_recordings([f"{tree}/gone.wav", f"{tree}/*.mp3", f"{tree}/empty", "a\0b"])
    problems = [read_recording(file, KNOWN, None).problem for file in found]
    assert problems[:3] == ["cannot read: No such file or directory"] * 2 + ["a folder without .wav or .flac files"]
    assert "null" in problems[3]


@pytest.mark.parametrize(
    ("path", "machine"),
    [
        ("/data/fan/test/section_00_0001.wav", "fan"),
        ("/data/valve/test/section_00_0001.wav", "valve"),  # the layout names it, the model will say it is unknown
        ("/data/pump/2024/may/x.wav", "pump"),
        ("/data/fan/pump/x.wav", "pump"),
        ("/data/recordings/x.wav", None),
        ("/data/fan.wav", None),
        ("-", None),
    ],
)
def test_the_machine_by_the_path(path, machine):
    assert machine_of(path, KNOWN) == machine


def test_the_machine_by_a_relative_path(tree, monkeypatch):
    monkeypatch.chdir(tree / "fan" / "test")
    assert machine_of("b.wav", KNOWN) == "fan"
    assert read_recording("b.wav", KNOWN, "pump").machine == "pump"


@pytest.mark.parametrize(
    ("name", "section"),
    [
        ("section_00_source_test_normal_0000_n_A.wav", "00"),
        ("section_03_0001.wav", "03"),
        ("normal_id_02_00000001.wav", "02"),
        ("section_x.wav", None),
        ("intersection_01.wav", None),
        ("x.wav", None),
    ],
)
def test_the_section_by_the_name(name, section):
    assert section_of(f"fan/{name}") == section


def test_standard_input_is_one_file(monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"bytes")))
    assert read_recording("-", KNOWN, "fan") == (b"bytes", "fan", None, "")


def test_a_file_without_end_is_left(monkeypatch):
    monkeypatch.setattr(sources, "MOST_BYTES", 3 << 20)
    assert "more than 3 MiB" in read_recording("/dev/zero", KNOWN, "fan").problem
