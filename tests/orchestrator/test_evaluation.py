"""The official result: equal to the official scorer's, and every fault of a folder said at once. Its truth, too."""

import csv

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.data.truth import TRUTH_SCHEMA, read_truth
from orchestrator.errors import DataError, StorageError, SubmissionError
from orchestrator.evaluation import evaluate_folder, evaluate_scores, official_csv, write_official_csv

GOLDEN = ("challenge_team_1", "challenge_team_2", "random_continuous", "random_ties")
NAMES = ("section_00_0001.wav", "section_00_0002.wav", "section_00_0003.wav", "section_00_0004.wav")


# The official scorer's own results


@pytest.fixture(scope="session")
def golden_truth(shared):
    return read_truth(shared / "golden/dcase2024_eval_ground_truth.csv")


@pytest.mark.parametrize("system", GOLDEN)
def test_every_line_of_the_official_scorer(shared, golden_truth, system, tmp_path):
    folder = shared / "golden/scores" / system
    result = evaluate_folder(folder, golden_truth)
    write_official_csv(result, tmp_path / "official_result.csv")
    ours, theirs = (list(csv.reader((at / "official_result.csv").open())) for at in (tmp_path, folder))
    theirs = [line for line in theirs if line[:1] != ["official score ci95"]]
    assert len(ours) == len(theirs)
    for our, their in zip(ours, theirs, strict=True):
        assert [number(cell) for cell in our] == [number(cell) for cell in their]
    assert result.official_score == pytest.approx(float(theirs[-2][2]), abs=1e-9)


def number(cell: str):
    """A cell to compare: a number to 1e-9, text as it is, and a section's leading zero is text."""
    try:
        return cell if cell == "00" else pytest.approx(float(cell), abs=1e-9, rel=1e-9)
    except ValueError:
        return cell


def test_a_chosen_part_of_the_machines(shared, golden_truth):
    folder = shared / "golden/scores/random_ties"
    all_machines = evaluate_folder(folder, golden_truth).sections
    part = evaluate_folder(folder, golden_truth, ["Scanner", "HairDryer"])
    assert part.sections == {place: f for place, f in all_machines.items() if place[0] in ("Scanner", "HairDryer")}


# A table of scores


def table(**columns):
    return pa.table({"machine": ["fan"] * 4, "section": ["00"] * 4, **columns})


def test_a_study_gives_the_same_result_as_its_files(tmp_path):
    rows = table(
        file_name=list(NAMES),
        score=np.array([0.1, 0.4, 0.2, 0.3]),
        decision=np.array([0, 1, 0, 1]),
        is_anomaly=[False, True, False, True],
        is_target=[False, False, True, True],
    )
    fill(tmp_path, "fan", [0.1, 0.4, 0.2, 0.3], [0, 1, 0, 1])
    result = evaluate_scores(rows)
    assert result == evaluate_folder(tmp_path, rows.select(TRUTH_SCHEMA.names))
    assert result.official_score == 1.0


def test_sections_are_evaluated_apart():
    """Section 01's scores lie above section 00's: perfect apart, not together."""
    rows = table(score=[0.1, 0.2, 1.1, 1.2], decision=[0, 1, 0, 1], is_anomaly=[0, 1, 0, 1], is_target=[0, 0, 0, 0])
    rows = rows.set_column(1, "section", [["00", "00", "01", "01"]])
    result = evaluate_scores(rows)
    assert [figures.auc_source for figures in result.sections.values()] == [1.0, 1.0]
    lines = official_csv(result).splitlines()
    assert lines[0] == "fan"
    assert [line[:3] for line in lines[2:4]] == ["00,", "01,"]
    assert lines[4] == ",,AUC,pAUC,precision,recall,F1 score"


def test_figures_that_do_not_exist_are_empty_cells():
    rows = table(score=[0.1, 0.2, 0.3, 0.4], decision=[0, 0, 1, 1], is_anomaly=[0, 0, 1, 1], is_target=[0, 0, 0, 0])
    result = evaluate_scores(rows)
    assert result.official_score == 1.0
    assert official_csv(result).splitlines()[2] == "00,1.0,1.0,,1.0,1.0,,1.0,,1.0,"
    nothing = evaluate_scores(rows.set_column(4, "is_anomaly", [[0, 0, 0, 0]]))
    assert nothing.official_score is None
    assert official_csv(nothing).splitlines()[-2:] == ["official score,,", ""]


# Faults of a folder

TRUTH = pa.table(
    {
        "machine": ["fan"] * 4 + ["pump"] * 4,
        "file_name": NAMES * 2,
        "is_anomaly": [False, True, False, True] * 2,
        "is_target": [False, False, True, True] * 2,
    }
)


def fill(folder, machine, scores=(1, 2, 3, 4), decisions=(0, 1, 0, 1), section="00"):
    for kind, values in (("anomaly_score", scores), ("decision_result", decisions)):
        if values is not None:
            text = "".join(f"{name},{value}\n" for name, value in zip(NAMES, values, strict=False))
            (folder / f"{kind}_{machine}_section_{section}_test.csv").write_text(text)


def faults_of(folder, machines=()):
    with pytest.raises(SubmissionError) as error:
        evaluate_folder(folder, TRUTH, machines)
    head, *lines = str(error.value).replace(f"{folder}/", "").splitlines()
    assert head == f"{len(lines)} fault(s) in {folder}:"
    return lines


def test_all_faults_are_said_at_once_with_file_and_line(tmp_path):
    fill(tmp_path, "fan", scores=["0.1", "x", "nan", "4"], decisions=["0", "1", "2", "1"])
    fill(tmp_path, "pump", scores=[1, 2, 3], decisions=None)
    with (tmp_path / "anomaly_score_fan_section_00_test.csv").open("a") as file:
        file.write(f"{NAMES[0]},0.3\nsection_00_0099.wav,1\n")
    fill(tmp_path, "valve")
    score, decision = "anomaly_score_{}_section_00_test.csv", "decision_result_{}_section_00_test.csv"
    foreign = "its machine is not in the truth, which has fan, pump"
    assert sorted(faults_of(tmp_path)) == sorted(
        [
            f"{score.format('valve')}: {foreign}",
            f"{decision.format('valve')}: {foreign}",
            f"{score.format('fan')}:2: 'x' is not a number",
            f"{score.format('fan')}:3: 'nan' is not finite",
            f"{score.format('fan')}:5: {NAMES[0]} occurs twice, first in line 1",
            f"{score.format('fan')}:6: section_00_0099.wav is not in the truth",
            f"{decision.format('fan')}:3: decision '2'; valid: 0 (normal) or 1 (anomalous)",
            f"{decision.format('pump')}: missing; a section has both files, scores and decisions",
            f"{tmp_path}: pump: no score for {NAMES[3]}",
        ]
    )


def test_decisions_for_other_clips_than_the_scores(tmp_path):
    fill(tmp_path, "fan", scores=(1, 2, 3), decisions=(0, 1, 0, 1))
    where = "decision_result_fan_section_00_test.csv:4"
    what = f"{NAMES[3]} is missing in anomaly_score_fan_section_00_test.csv"
    assert faults_of(tmp_path, ["fan"]) == [f"{where}: {what}"]


def test_decisions_without_scores(tmp_path):
    fill(tmp_path, "fan")
    fill(tmp_path, "fan", scores=None, section="01")
    assert "anomaly_score_fan_section_01_test.csv: missing; a section has both files, scores and decisions" in (
        faults_of(tmp_path, ["fan"])
    )


def test_a_clip_in_two_sections(tmp_path):
    fill(tmp_path, "fan")
    fill(tmp_path, "fan", scores=(9,), decisions=(1,), section="01")
    what = f"{NAMES[0]} is in anomaly_score_fan_section_00_test.csv too"
    assert faults_of(tmp_path, ["fan"]) == [f"anomaly_score_fan_section_01_test.csv:1: {what}"]


def test_faults_are_not_cut_short(tmp_path):
    fill(tmp_path, "fan")
    path = tmp_path / "anomaly_score_fan_section_00_test.csv"
    path.write_text(path.read_text() + "".join(f"other_{i}.wav,1\n" for i in range(300)))
    assert len(faults_of(tmp_path, ["fan"])) == 300


def test_a_part_of_the_machines_must_be_asked_for(tmp_path):
    fill(tmp_path, "fan")
    missing = "no anomaly_score_pump_section_<nn>_test.csv; for a part only: --machines fan"
    assert faults_of(tmp_path) == [f"{tmp_path}: {missing}"]
    assert list(evaluate_folder(tmp_path, TRUTH, ["fan"]).sections) == [("fan", "00")]
    with pytest.raises(SubmissionError, match="--machines fam: not in the truth, which has fan, pump"):
        evaluate_folder(tmp_path, TRUTH, ["fam"])


def test_a_folder_of_other_things(tmp_path):
    lines = faults_of(tmp_path, ["fan"])
    assert lines == [
        f"{tmp_path}: no anomaly_score_fan_section_<nn>_test.csv; the folder has no such file; name another"
    ]


def test_an_existing_result_is_kept_unless_forced(tmp_path):
    fill(tmp_path, "fan")
    result = evaluate_folder(tmp_path, TRUTH, ["fan"])
    path = tmp_path / "new/official.csv"
    write_official_csv(result, path)
    write_official_csv(result, path)  # the same content is no conflict
    path.write_text("mine")
    with pytest.raises(StorageError, match="exists with other content; --force"):
        write_official_csv(result, path)
    assert path.read_text() == "mine"
    write_official_csv(result, path, force=True)
    assert path.read_text() == official_csv(result)
    with pytest.raises(StorageError, match="is a folder; name a file in it"):
        write_official_csv(result, tmp_path)


# The truth


def test_the_released_truth(golden_truth):
    assert golden_truth.schema == TRUTH_SCHEMA
    assert len(golden_truth) == 9 * 200
    first = {"machine": "3DPrinter", "file_name": "section_00_0001.wav", "is_anomaly": True, "is_target": True}
    assert golden_truth.slice(0, 1).to_pylist() == [first]
    assert sum(golden_truth["is_anomaly"].to_pylist()) == sum(golden_truth["is_target"].to_pylist()) == 900


def csv_truth(tmp_path, text):
    path = tmp_path / "truth.csv"
    path.write_text(text)
    return read_truth(path)


def test_columns_in_any_order_and_more_of_them(tmp_path):
    truth = csv_truth(tmp_path, "is_target,note,machine,is_anomaly,file_name\n1,x,fan,False,a.wav\n")
    assert truth.to_pylist() == [{"machine": "fan", "file_name": "a.wav", "is_anomaly": False, "is_target": True}]


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
    with pytest.raises(DataError, match=r"no truth at .*absent.csv: give a CSV of machine, file_name"):
        read_truth(tmp_path / "absent.csv")


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


def test_a_folder_of_recordings_tells_by_its_names(tmp_path):
    names = ("test/section_00_target_test_anomaly_0000_n_A.wav", "test/section_00_0001.wav")
    for name in (*names, "train/section_00_source_train_normal_0000_n_A.wav"):
        path = tmp_path / "fan" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    told = {"machine": "fan", "file_name": names[0][5:], "is_anomaly": True, "is_target": True}
    assert read_truth(tmp_path).to_pylist() == [told]
