"""File names and folder layouts of all years."""

import csv
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.data.dcase import FOUND_SCHEMA, BadName, ClipName, find_clips, parse_name
from orchestrator.errors import DataError


def shared() -> Path:
    root = next(parent for parent in Path(__file__).resolve().parents if (parent / "pyproject.toml").exists())
    if not (root.parent / "shared").is_dir():
        pytest.skip("needs the recordings and name lists in ../shared")
    return root.parent / "shared"


@pytest.mark.parametrize(
    ("file_name", "folder", "expected"),
    [
        ("normal_id_00_00000012.wav", "train", ("00", "source", "train", "normal", 12, "noAttribute")),
        ("anomaly_id_06_00000000.wav", "test", ("06", "source", "test", "anomaly", 0, "noAttribute")),
        ("id_01_00000007.wav", "test", ("01", "source", "test", "unknown", 7, "noAttribute")),
        (
            "section_00_source_train_normal_0000_strength_1_ambient.wav",
            "train",
            ("00", "source", "train", "normal", 0, "strength_1_ambient"),
        ),
        (
            "section_02_target_test_anomaly_0003.wav",
            "target_test",
            ("02", "target", "test", "anomaly", 3, "noAttribute"),
        ),
        ("section_03_source_test_0000.wav", "source_test", ("03", "source", "test", "unknown", 0, "noAttribute")),
        ("section_03_test_0005.wav", "test", ("03", "unknown", "test", "unknown", 5, "noAttribute")),
        ("section_03_test_0005.wav", "target_test", ("03", "target", "test", "unknown", 5, "noAttribute")),
        ("section_00_0001.wav", "test", ("00", "unknown", "test", "unknown", 1, "noAttribute")),
        (
            "section_00_target_train_normal_0009_car_A1_spd_28V_mic_1.FLAC",
            "train",
            ("00", "target", "train", "normal", 9, "car_A1_spd_28V_mic_1"),
        ),
        (
            "section_00_source_train_normal_0000_noAttribute.Wav",
            "train",
            ("00", "source", "train", "normal", 0, "noAttribute"),
        ),
    ],
)
def test_every_years_form(file_name, folder, expected):
    assert parse_name(file_name, folder) == ClipName(*expected)


@pytest.mark.parametrize(
    ("file_name", "folder", "reason"),
    [
        ("recording 7.wav", "train", "not a known form"),
        ("section_00_source_train_normal_x_A.wav", "train", "not a known form"),
        ("section_00_source_train_normal_0001_a|b.wav", "train", "not a known form"),
        ("section_00_source_train_normal_0001_A.wav", "test", "says train but lies in test"),
        ("section_00_source_test_normal_0001_A.wav", "train", "says test but lies in train"),
        ("section_00_source_test_normal_0001.wav", "target_test", "says source but lies in target_test"),
        ("section_00_source_train_anomaly_0001_A.wav", "train", "training clips are normal"),
        ("section_00_0001.wav", "train", "training clips are normal"),
        ("id_00_00000001.wav", "train", "training clips are normal"),
    ],
)
def test_a_wrong_name_says_why(file_name, folder, reason):
    with pytest.raises(BadName, match=reason):
        parse_name(file_name, folder)


@given(
    section=st.integers(0, 99).map("{:02d}".format),
    domain=st.sampled_from(["source", "target"]),
    split=st.sampled_from(["train", "test"]),
    index=st.integers(0, 9999),
    attribute=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,30}", fullmatch=True),
    suffix=st.sampled_from([".wav", ".flac", ".WAV"]),
)
def test_what_a_name_is_built_from_comes_back(section, domain, split, index, attribute, suffix):
    file_name = f"section_{section}_{domain}_{split}_normal_{index:04d}_{attribute}{suffix}"
    assert parse_name(file_name, split) == ClipName(section, domain, split, "normal", index, attribute)


def test_all_19200_real_names_of_2024_agree_with_their_folder():
    with open(shared() / "golden" / "dcase2024_file_names.csv") as file:
        rows = list(csv.DictReader(file))
    names = [parse_name(row["file_name"], row["split"]) for row in rows]
    assert len(names) == 19200
    assert sum(name.split == "train" for name in names) == 16 * 1000
    assert sum(name.label == "anomaly" for name in names) == 16 * 100
    for row, name in zip(rows, names, strict=True):
        rebuilt = (
            f"section_{name.section}_{name.domain}_{name.split}_{name.label}_{name.index:04d}_{name.attribute}.wav"
        )
        assert rebuilt == row["file_name"]


TRAIN = "section_00_source_train_normal_0000_n_A.wav"
TEST = "section_00_target_test_anomaly_0003_n_X.wav"


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"not read here")


def test_rows_carry_name_and_file_stamps(tmp_path):
    touch(tmp_path / "fan/train" / TRAIN, tmp_path / "fan/test" / TEST, tmp_path / "fan/attributes_00.csv")
    clips, notes = find_clips([tmp_path])
    assert clips.schema == FOUND_SCHEMA
    assert notes == []
    test, train = clips.to_pylist()
    assert (train["clip_id"], train["path"]) == (f"fan/train/{TRAIN[:-4]}", str(tmp_path / "fan/train" / TRAIN))
    assert (test["domain"], test["label"], test["attribute"]) == ("target", "anomaly", "n_X")
    assert train["size_bytes"] == len(b"not read here")
    assert train["mtime_ns"] == (tmp_path / "fan/train" / TRAIN).stat().st_mtime_ns


@pytest.mark.parametrize("inside", ["", "dev_data", "dev_data/raw", "a/dev_fan"])
def test_levels_between_root_and_machine_are_walked(tmp_path, inside):
    touch(tmp_path / inside / "fan/train" / TRAIN)
    assert find_clips([tmp_path]).clips["machine"].to_pylist() == ["fan"]


def test_a_root_may_be_one_machine_and_overlapping_roots_count_once(tmp_path):
    touch(tmp_path / "fan/train" / TRAIN)
    clips = find_clips([tmp_path / "fan", tmp_path, tmp_path]).clips
    assert clips["clip_id"].to_pylist() == [f"fan/train/{TRAIN[:-4]}"]


def test_parts_of_a_machine_in_several_roots_are_one_machine(tmp_path):
    touch(tmp_path / "dev/fan/train" / TRAIN, tmp_path / "additional/fan/test/section_00_0001.wav")
    clips = find_clips([tmp_path / "dev", tmp_path / "additional"]).clips
    assert clips["split"].to_pylist() == ["test", "train"]
    assert set(clips["machine"].to_pylist()) == {"fan"}


def test_folders_of_2021_and_names_of_2020(tmp_path):
    touch(
        tmp_path / "fan/source_test/section_03_source_test_0000.wav",
        tmp_path / "fan/target_test/section_03_target_test_0000.wav",
        tmp_path / "pump/train/normal_id_00_00000000.wav",
        tmp_path / "pump/test/normal_id_00_00000000.wav",
    )
    clips = find_clips([tmp_path]).clips
    assert clips["domain"].to_pylist() == ["source", "target", "source", "source"]
    assert clips["clip_id"].to_pylist()[2:] == ["pump/test/normal_id_00_00000000", "pump/train/normal_id_00_00000000"]


def test_what_is_left_aside_is_noted_and_what_is_odd_is_a_row(tmp_path):
    touch(
        tmp_path / "fan/train" / TRAIN,
        tmp_path / "fan/train/holiday.wav",
        tmp_path / f"fan/train/._{TRAIN}",
        tmp_path / "fan/train/readme.txt",
        tmp_path / "fan/supplemental/section_00_supplemental_0000.wav",
        tmp_path / "external/helicopter.wav",
        tmp_path / f"__MACOSX/fan/train/{TRAIN}",
    )
    clips, notes = find_clips([tmp_path])
    problems = dict(zip(clips["file_name"].to_pylist(), clips["problem"].to_pylist(), strict=True))
    assert problems.keys() == {TRAIN, "holiday.wav"}
    assert problems["holiday.wav"].startswith("name: not a known form")
    assert [re.search(r"(\w+): 1 audio files", note)[1] for note in notes] == ["external", "supplemental"]


def test_a_link_to_nowhere_is_a_row_with_a_problem(tmp_path):
    touch(tmp_path / "fan/train" / TRAIN)
    (tmp_path / "fan/train" / TRAIN.replace("0000", "0001")).symlink_to(tmp_path / "gone.wav")
    assert find_clips([tmp_path]).clips["problem"].to_pylist() == ["", "cannot read: No such file or directory"]


def test_one_clip_in_two_files_lists_both(tmp_path):
    wav, flac = tmp_path / "a/fan/train" / TRAIN, tmp_path / "b/fan/train" / TRAIN.replace(".wav", ".flac")
    touch(wav, flac)
    with pytest.raises(DataError, match="1 clips exist twice") as error:
        find_clips([tmp_path / "a", tmp_path / "b"])
    assert str(wav) in str(error.value)
    assert str(flac) in str(error.value)


def test_nothing_found_says_what_was_looked_for(tmp_path):
    (tmp_path / "fan").mkdir()
    for roots in ([tmp_path], [tmp_path / "absent"], []):
        with pytest.raises(DataError, match=r"(?s)Expected <root>/<machine>/train/.*asd synth data/demo"):
            find_clips(roots)


def test_a_separator_in_a_machines_name_is_refused(tmp_path):
    touch(tmp_path / "fan|x/train" / TRAIN)
    assert find_clips([tmp_path]).clips["problem"].to_pylist()[0].startswith("name: the machine's folder")
