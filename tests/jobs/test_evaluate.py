"""`asd evaluate` as a user meets it."""

import csv
import subprocess
import sys

import pytest
import typer
from support import ROOT
from typer.testing import CliRunner

from jobs.evaluate import evaluate
from orchestrator.errors import DataError, StorageError, SubmissionError

OFFICIAL = {
    "challenge_team_1": "46.46",
    "challenge_team_2": "46.36",
    "random_continuous": "59.37",
    "random_ties": "64.81",
}


def invoke(*args):
    app = typer.Typer()
    app.command()(evaluate)
    return CliRunner().invoke(app, [str(arg) for arg in args])


@pytest.fixture
def small(tmp_path):
    """One machine, source domain only: the anomaly lies between two normal clips, so the AUC of the source is 1/2."""
    names = ["section_00_0000.wav", "section_00_0001.wav", "section_00_0002.wav"]
    truth = [
        "machine,file_name,is_anomaly,is_target",
        f"fan,{names[0]},0,0",
        f"fan,{names[1]},1,0",
        f"fan,{names[2]},0,0",
    ]
    (tmp_path / "truth.csv").write_text("\n".join(truth))
    folder = tmp_path / "scores"
    folder.mkdir()
    for kind, values in (("anomaly_score", "123"), ("decision_result", "011")):
        text = "".join(f"{name},{value}\n" for name, value in zip(names, values, strict=True))
        (folder / f"{kind}_fan_section_00_test.csv").write_text(text)
    return folder, "--truth", tmp_path / "truth.csv"


@pytest.mark.parametrize("system", sorted(OFFICIAL))
def test_the_golden_systems(shared, system):
    result = invoke(shared / "golden/scores" / system, "--truth", shared / "golden/dcase2024_eval_ground_truth.csv")
    assert result.exit_code == 0, result.output
    assert f"official score: {OFFICIAL[system]} %" in result.output
    assert "Next: --csv FILE" in result.output


def test_a_machines_row_is_that_of_the_official_scorer(shared):
    """3DPrinter of team 1: 3 / (1/0.6004 + 1/0.368 + 1/0.503684) = 0.4711."""
    folder, truth = shared / "golden/scores/challenge_team_1", shared / "golden/dcase2024_eval_ground_truth.csv"
    result = invoke(folder, "--truth", truth, "--machines", "3DPrinter, Scanner")
    row = next(line for line in result.output.splitlines() if "3DPrinter" in line)
    assert [cell.strip() for cell in row.split("│")[1:-1]] == ["3DPrinter", "00", "60.04", "36.80", "50.37", "47.11"]
    assert "AirCompressor" not in result.output


def test_the_csv_is_that_of_the_official_scorer(shared, tmp_path):
    """Every line but the one on confidence, down to the last printed digits."""
    folder, truth = shared / "golden/scores/challenge_team_1", shared / "golden/dcase2024_eval_ground_truth.csv"
    result = invoke(folder, "--truth", truth, "--csv", tmp_path / "ours.csv")
    assert result.exit_code == 0, result.output
    theirs = [line for line in csv.reader((folder / "official_result.csv").open()) if "official score ci95" not in line]
    ours = list(csv.reader((tmp_path / "ours.csv").open()))
    assert [cells(line) for line in ours] == [cells(line) for line in theirs]


def cells(line: list[str]) -> list[object]:
    return [pytest.approx(float(cell), abs=1e-9) if "." in cell else cell for cell in line]


def test_absent_figures_are_said(small):
    result = invoke(*small)
    assert result.exit_code == 0, result.output
    assert (
        "fan section 00: no AUC target: its test clips lack anomalies, or normal clips of that domain" in result.output
    )


def test_the_csv_is_written_once_and_replaced_only_by_force(small, tmp_path):
    out = tmp_path / "official.csv"
    result = invoke(*small, "--csv", out)
    assert f"All figures are in {out}. Next, another system: asd evaluate DIR" in result.output
    assert out.read_text().startswith("fan\nsection,AUC (all),AUC (source)")
    assert invoke(*small, "--csv", out).exit_code == 0
    out.write_text("mine")
    assert isinstance(invoke(*small, "--csv", out).exception, StorageError)
    assert out.read_text() == "mine"
    assert invoke(*small, "--csv", out, "--force").exit_code == 0
    assert out.read_text().startswith("fan\n")


def test_faults_reach_the_user(small):
    path = small[0] / "anomaly_score_fan_section_00_test.csv"
    path.write_text(path.read_text().replace(",1\n", ",one\n"))
    result = invoke(*small)
    assert isinstance(result.exception, SubmissionError)
    assert str(result.exception) == f"1 fault(s) in {small[0]}:\n{path}:1: 'one' is not a number"


def test_a_wrong_folder_truth_or_machine_is_answered_with_a_right_one(small, tmp_path):
    folder, *truth = small
    wrong = [
        ((tmp_path / "absent", *truth), SubmissionError, "no folder"),
        ((tmp_path, *truth), SubmissionError, "no anomaly_score_fan_section_<nn>_test.csv"),
        ((folder, "--truth", tmp_path / "absent.csv"), DataError, "no truth at"),
        ((folder, *truth, "--machines", "fam"), SubmissionError, "--machines fam: not in the truth, which has fan"),
        ((*small, "--csv", tmp_path), StorageError, "is a folder; name a file in it"),
    ]
    for arguments, kind, said in wrong:
        error = invoke(*arguments).exception
        assert isinstance(error, kind)
        assert said in str(error)


def test_a_fault_is_a_message_and_exit_code_2(small):
    """As a process of its own: a user sees no traceback."""
    command = [sys.executable, "-m", "jobs", "evaluate", *map(str, small), "--machines", "fam"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert ended.returncode == 2
    assert ended.stderr == "error: --machines fam: not in the truth, which has fan\n"


def test_importing_the_job_loads_nothing_heavy():
    code = "import sys, jobs.evaluate; print({'torch', 'ray', 'pyarrow', 'numpy'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"
