"""The official result: equal to the official scorer's, and every fault of a folder said at once."""

import csv

import numpy as np
import pyarrow as pa
import pytest

from orchestrator.data.truth import TRUTH_SCHEMA, read_truth
from orchestrator.errors import StorageError, SubmissionError
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
    fill(tmp_path, "fan", scores=["0.1", "x", "nan", "4"], decisions=["0", "1", "0.5", "1"])
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
            f"{decision.format('fan')}:3: decision '0.5'; valid: 0 (normal) or 1 (anomalous)",
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
