"""The truth of test clips: from a table, a clip table or file names, with every wrong line named."""

import csv
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from orchestrator.data.clips import scan, write_table
from orchestrator.data.truth import LISTED, TRUTH_SCHEMA, read_truth
from orchestrator.errors import DataError

HEADER = "machine,file_name,is_anomaly,is_target\n"

# The released truth


@pytest.fixture(scope="module")
def golden_truth(shared):
    return read_truth(shared / "golden/dcase2024_eval_ground_truth.csv")


def test_the_released_truth(golden_truth):
    assert golden_truth.schema == TRUTH_SCHEMA
    assert len(golden_truth) == 9 * 200
    first = {"machine": "3DPrinter", "file_name": "section_00_0001.wav", "is_anomaly": True, "is_target": True}
    assert golden_truth.slice(0, 1).to_pylist() == [first]
    assert sum(golden_truth["is_anomaly"].to_pylist()) == sum(golden_truth["is_target"].to_pylist()) == 900


def test_the_released_flags_are_those_of_the_true_names(shared, golden_truth):
    """Words are looked for anywhere in a name: those of RoboticArm lack `_test`."""
    with (shared / "golden/dcase2024_eval_ground_truth.csv").open() as file:
        names = [row["true_name"].split("_") for row in csv.DictReader(file)]
    assert golden_truth["is_target"].to_pylist() == ["target" in name for name in names]
    assert golden_truth["is_anomaly"].to_pylist() == ["anomaly" in name for name in names]


# A CSV


def csv_truth(tmp_path, text):
    path = tmp_path / "truth.csv"
    path.write_text(text)
    return read_truth(path)


def test_columns_in_any_order_and_more_of_them(tmp_path):
    truth = csv_truth(tmp_path, "is_target,note,machine,is_anomaly,file_name\n1,x,fan,False,a.wav\n")
    assert truth.to_pylist() == [{"machine": "fan", "file_name": "a.wav", "is_anomaly": False, "is_target": True}]


@pytest.mark.parametrize(("word", "flag"), [("0", False), ("1", True), ("FALSE", False), (" true ", True)])
def test_flags_of_every_usual_spelling(tmp_path, word, flag):
    """A spreadsheet writes a byte order mark, carriage returns and capitals."""
    truth = csv_truth(tmp_path, f"\ufeff{HEADER.strip()}\r\nfan,a.wav,{word},{word}\r\n")
    assert truth.to_pylist() == [{"machine": "fan", "file_name": "a.wav", "is_anomaly": flag, "is_target": flag}]


def test_two_machines_may_use_the_same_file_name(tmp_path):
    assert len(csv_truth(tmp_path, f"{HEADER}fan,a.wav,0,0\npump,a.wav,1,0\n")) == 2


@pytest.mark.parametrize("flag", ["", "yes", "2", "0.5", "-1", "nan", "01"])
def test_a_flag_is_never_guessed(tmp_path, flag):
    with pytest.raises(DataError, match=rf"truth.csv:2: is_target is '{flag}'; valid: 0 or 1$"):
        csv_truth(tmp_path, f"{HEADER}fan,a.wav,0,{flag}\n")


def test_a_wholly_wrong_truth_is_counted_and_its_first_lines_are_named(tmp_path):
    with pytest.raises(DataError) as error:
        csv_truth(tmp_path, HEADER + "".join(f"fan,{i}.wav,x,0\n" for i in range(LISTED + 7)))
    lines = str(error.value).splitlines()
    assert lines[0] == f"{LISTED + 7} fault(s) in the truth:"
    assert len(lines) == 1 + LISTED + 1
    assert lines[-1] == "... and 7 more"


def test_every_bad_line_of_a_truth_is_named(tmp_path):
    text = "machine,file_name,is_anomaly,is_target\nfan,a.wav,1,0\n\nfan,a.wav,0,0\nfan,b.wav,yes,\n,c.wav,0,0\nfan\n"
    with pytest.raises(DataError) as error:
        csv_truth(tmp_path, text)
    assert str(error.value).replace(f"{tmp_path}/", "").splitlines() == [
        "4 fault(s) in the truth:",
        "truth.csv:4: machine, file_name: fan/a.wav occurs twice",
        "truth.csv:5: is_anomaly is 'yes'; valid: 0 or 1; is_target is ''; valid: 0 or 1",
        "truth.csv:6: machine is empty",
        "truth.csv:7: is_anomaly is None; valid: 0 or 1; is_target is None; valid: 0 or 1; file_name is empty",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("machine,file_name,is_anomaly\n", "truth.csv:1: no column is_target; needed: machine, file_name"),
        ("", "truth.csv:1: no column machine, file_name, is_anomaly, is_target"),
        ("machine,file_name,is_anomaly,is_target\n", "a header and no rows"),
    ],
)
def test_a_truth_without_columns_or_rows(tmp_path, text, said):
    with pytest.raises(DataError, match=said):
        csv_truth(tmp_path, text)


def test_a_truth_that_is_no_text_or_not_there(tmp_path):
    (tmp_path / "truth.csv").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(DataError, match="not a CSV in UTF-8"):
        read_truth(tmp_path / "truth.csv")
    (tmp_path / "truth.csv").write_text(HEADER + "x" * 200_000)
    with pytest.raises(DataError, match="not a CSV in UTF-8: field larger than field limit"):
        read_truth(tmp_path / "truth.csv")
    with pytest.raises(DataError, match=r"no truth at .*absent.csv: give a CSV of machine, file_name"):
        read_truth(tmp_path / "absent.csv")


# A clip table


def clip(name, label, domain="source", split="test"):
    return {"machine": "fan", "file_name": name, "split": split, "label": label, "domain": domain, "path": "x"}


def clip_truth(tmp_path, *clips):
    pq.write_table(pa.Table.from_pylist(list(clips)), tmp_path / "clips.parquet")
    return read_truth(tmp_path / "clips.parquet")


def test_a_clip_table_gives_its_test_clips_of_known_label(tmp_path):
    clips = [clip("a", "normal", split="train"), clip("b", "anomaly", "target"), clip("c", "unknown", "unknown")]
    expected = {"machine": "fan", "file_name": "b", "is_anomaly": True, "is_target": True}
    assert clip_truth(tmp_path, *clips).to_pylist() == [expected]


def test_bad_clip_tables(tmp_path):
    with pytest.raises(DataError) as error:
        clip_truth(tmp_path, clip("a", "odd"), clip("b", "normal", "unknown"), clip("c", "normal"), clip("c", "normal"))
    assert [line.split("parquet: ")[-1] for line in str(error.value).splitlines()[1:]] == [
        "row 0: label is 'odd'; valid: normal or anomaly",
        "row 1: domain is 'unknown'; valid: source or target",
        "row 3: machine, file_name: fan/c occurs twice",
    ]
    with pytest.raises(DataError, match="no test clip there has a known label"):
        clip_truth(tmp_path, clip("a", "unknown"))
    with pytest.raises(DataError, match=r"no column split; a clip table is what `asd scan ROOT --out"):
        clip_truth(tmp_path, {key: value for key, value in clip("a", "normal").items() if key != "split"})
    (tmp_path / "clips.parquet").write_text("no parquet")
    with pytest.raises(DataError, match="is not a clip table as `asd scan` writes it"):
        read_truth(tmp_path / "clips.parquet")


@pytest.mark.parametrize("label", [1, 0, None])
def test_labels_that_are_no_words_are_named(tmp_path, label):
    with pytest.raises(DataError, match=f"row 0: label is {label}; valid: normal or anomaly"):
        clip_truth(tmp_path, clip("a", label))


# A folder


def test_a_folder_of_recordings_tells_by_its_names(tmp_path):
    names = ("test/section_00_target_test_anomaly_0000_n_A.wav", "test/section_00_0001.wav")
    for name in (*names, "train/section_00_source_train_normal_0000_n_A.wav"):
        path = tmp_path / "fan" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    told = {"machine": "fan", "file_name": names[0][5:], "is_anomaly": True, "is_target": True}
    assert read_truth(tmp_path).to_pylist() == [told]


def test_a_scan_of_a_folder_tells_the_same_as_the_folder(tmp_path):
    for kind in ("source_test_normal", "target_test_anomaly", "source_train_normal"):
        path = tmp_path / f"data/fan/{kind.split('_')[1]}/section_00_{kind}_0000_n_A.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, [0.1, -0.1] * 1600, 16000)
    write_table(scan([tmp_path / "data"]), tmp_path / "clips.parquet")
    truth = read_truth(tmp_path / "clips.parquet")
    assert truth.equals(read_truth(tmp_path / "data"))
    assert truth["is_anomaly"].to_pylist() == truth["is_target"].to_pylist() == [False, True]


def test_a_folder_whose_names_tell_nothing(tmp_path):
    path = tmp_path / "fan/test/section_00_0001.wav"
    path.parent.mkdir(parents=True)
    path.touch()
    with pytest.raises(DataError, match=r"no test clip there has a known label; give a CSV of machine, file_name"):
        read_truth(tmp_path)


def test_a_folder_without_recordings(tmp_path):
    with pytest.raises(DataError, match=str(tmp_path)):
        read_truth(tmp_path)


def test_a_broken_clip_of_a_clip_table_is_not_expected_to_have_a_score(tmp_path: Path) -> None:
    row = {"machine": "fan", "split": "test", "label": "normal", "domain": "source"}
    rows = [row | {"file_name": "a.wav", "problem": ""}, row | {"file_name": "b.wav", "problem": "empty file"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "clips.parquet")
    assert read_truth(tmp_path / "clips.parquet")["file_name"].to_pylist() == ["a.wav"]
