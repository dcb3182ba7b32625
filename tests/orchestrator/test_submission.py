"""The challenge's files: written exactly, read with every fault named."""

import math

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import SubmissionError
from orchestrator.storage import Store
from orchestrator.submission import find_files, read_challenge_file, write_challenge_files


def row(file_name, score, decision=0, machine="fan", section="00"):
    return {"machine": machine, "section": section, "file_name": file_name, "score": score, "decision": decision}


def write(folder, *rows):
    return write_challenge_files(pa.Table.from_pylist(list(rows)), Store.at(folder))


def test_both_files_of_every_machine_and_section(tmp_path):
    written = write(
        tmp_path,
        row("section_00_0002.wav", 0.1 + 0.2, 1),
        row("section_00_0001.wav", -1e-20),
        row("section_01_0001.flac", 2.0, 1, section="01"),
        row("section_00_0001.wav", 1 / 3, machine="Toy_Car"),
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(written)  # no part of a file is left
    assert len(written) == 6
    assert (tmp_path / "anomaly_score_fan_section_00_test.csv").read_text() == (
        "section_00_0001.wav,-1e-20\nsection_00_0002.wav,0.30000000000000004\n"
    )
    assert (tmp_path / "decision_result_fan_section_00_test.csv").read_text() == (
        "section_00_0001.wav,0\nsection_00_0002.wav,1\n"
    )
    assert (tmp_path / "anomaly_score_fan_section_01_test.csv").read_text() == "section_01_0001.flac,2.0\n"
    assert ("anomaly_score", "Toy_Car", "00") in find_files(tmp_path)


@pytest.mark.parametrize("decision", [True, 1, 1.0])
def test_a_decision_is_0_or_1_whatever_its_type(tmp_path, decision):
    write(tmp_path, row("a.wav", 1, decision))
    assert (tmp_path / "decision_result_fan_section_00_test.csv").read_text() == "a.wav,1\n"
    assert (tmp_path / "anomaly_score_fan_section_00_test.csv").read_text() == "a.wav,1.0\n"


def test_truth_columns_that_are_unknown_do_not_matter(tmp_path):
    unknown = {"is_anomaly": None, "is_target": None}
    assert len(write(tmp_path, {**row("section_00_0001.wav", 0.5), **unknown})) == 2


def test_broken_rows_are_refused_together_and_nothing_is_written(tmp_path):
    rows = [row("a.wav", 0.1), row("a.wav", 0.2), row("b.wav", math.nan), row("c.wav", None)]
    with pytest.raises(SubmissionError) as error:
        write(tmp_path / "out", *rows)
    for text in ("fan/00/a.wav: occurs twice", "fan/00/b.wav: score nan", "fan/00/c.wav: score None"):
        assert text in str(error.value)
    assert not (tmp_path / "out").exists()


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    st.dictionaries(
        st.from_regex(r"section_00_[0-9]{4}\.wav", fullmatch=True),
        st.floats(allow_nan=False, allow_infinity=False),
        min_size=1,
    )
)
def test_what_is_written_is_read_back_to_the_last_digit(tmp_path_factory, scores):
    folder = tmp_path_factory.mktemp("round")
    write(folder, *(row(name, score) for name, score in scores.items()))
    faults: list[str] = []
    read = read_challenge_file(folder / "anomaly_score_fan_section_00_test.csv", faults)
    assert read.values == scores
    assert list(read.values) == sorted(scores)
    assert not faults


def read_text(tmp_path, text, kind="anomaly_score"):
    path = tmp_path / f"{kind}_fan_section_00_test.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    faults: list[str] = []
    file = read_challenge_file(path, faults)
    return file, [fault.removeprefix(f"{path}:") for fault in faults]


def test_numbers_of_every_usual_spelling_are_read(tmp_path):
    file, faults = read_text(tmp_path, "\ufeffa.wav,-0.9\r\nb.wav,3\r\n\r\nc.wav, 1e-3\r\nd.wav,+.5")
    assert file.values == {"a.wav": -0.9, "b.wav": 3.0, "c.wav": 1e-3, "d.wav": 0.5}
    assert file.lines == {"a.wav": 1, "b.wav": 2, "c.wav": 4, "d.wav": 5}
    assert not faults


def test_every_bad_line_is_named_with_its_number(tmp_path):
    text = "file_name,score\na.wav,0.1\na.wav,0.2\nb.wav,nan\nc.wav,-inf\nd.wav\ne.wav,1,2\n,3\nf.wav,7\n"
    file, faults = read_text(tmp_path, text)
    assert file.values == {"a.wav": 0.1, "f.wav": 7.0}
    assert [fault.split(":")[0] for fault in faults] == ["1", "3", "4", "5", "6", "7", "8"]
    assert faults[0] == "1: 'score' is not a number"
    assert faults[1] == "3: a.wav occurs twice, first in line 2"
    assert faults[2] == "4: 'nan' is not finite"
    assert "a line is file_name,value" in faults[4]


def test_decisions_are_0_or_1(tmp_path):
    file, faults = read_text(tmp_path, "a.wav,0\nb.wav,1.0\nc.wav,0.5\nd.wav,2\n", "decision_result")
    assert file.values == {"a.wav": 0, "b.wav": 1}
    assert faults == [
        f"{line}: decision {value!r}; valid: 0 (normal) or 1 (anomalous)" for line, value in ((3, "0.5"), (4, "2"))
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no lines"),
        (b"\xff\xfe\x00", "not readable as text"),
        (b"x" * 200_000, "not readable as text: field larger than field limit"),
    ],
)
def test_a_file_without_lines_is_one_fault(tmp_path, content, said):
    file, faults = read_text(tmp_path, content)
    assert file.values == {}
    assert len(faults) == 1
    assert said in faults[0]


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(SubmissionError, match=r"no folder .*absent; it should hold anomaly_score_<machine>"):
        find_files(tmp_path / "absent")
