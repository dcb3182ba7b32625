"""What a GPU owner runs with one command, as far as a CPU shows it."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.bench import __main__ as command
from orchestrator.bench import device, usage
from orchestrator.bench.device import WAYS, Row, Sizes, Way, device_table, estimate, fastest, measure_device
from orchestrator.bench.usage import GpuWatch, Usage, gpu_id

SMALL = Sizes("cpu", clip_seconds=4.5, batch=2, seconds=0.1, members=(1, 2), clips=4)
RESIDENT, STREAMED, GRAPHS, COMPILED = WAYS[1:5]


def test_no_ray_is_needed() -> None:
    """The command runs where Ray cannot be imported, and what it starts does too."""
    task = '{"what": "train", "plain": false, "clip_seconds": 4.5, "batch": 2, "clips": 4, "seconds": 0.1}'
    code = (
        "import sys; sys.modules['ray'] = None; from orchestrator.bench.__main__ import main; "
        f"sys.argv = ['bench', '{task}']; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert json.loads(done.stdout)["clips"] >= 2


def test_a_way_that_fails_is_a_row_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "WAYS", (Way("broken", "nonsense", False, ""), WAYS[0], RESIDENT, GRAPHS))
    said: list[str] = []
    rows = measure_device(SMALL, said.append)
    assert [(row.way.name, row.members) for row in rows] == [
        ("broken", 1),
        ("plain, DataLoader", 1),
        ("ours, resident", 1),
        ("ours, resident", 2),  # no graphs on a CPU
    ]
    assert rows[0].rate is None
    assert "KeyError: 'nonsense'" in rows[0].problem
    assert all(row.rate and row.start_seconds > 0 and row.torch_mib > 100 for row in rows[1:])
    assert len(said) == len(rows) == device_table(rows).row_count
    assert json.loads(json.dumps([row.as_json() for row in rows]))[0]["problem"] == rows[0].problem


def test_hours_are_computed_by_hand() -> None:
    rows = [
        Row(WAYS[0], 1, 10.0),
        Row(RESIDENT, 1, 60.0),
        Row(GRAPHS, 1, None, problem="out of memory"),
        Row(COMPILED, 1, 900.0),  # no setting of a study compiles
        Row(WAYS[5], 1, 999.0),  # inference
        Row(RESIDENT, 2, 80.0),
    ]
    assert fastest(rows) == rows[-1]
    found = estimate(rows, 10.0)
    assert found["members_per_hour"] == 3600 * 80 / (16_000 * 18) == 1.0
    assert found["hours"] == 45.0
    assert found["formula"].endswith("clips of 10 s")
    assert estimate(rows[2:5], 10.0) == {}


def test_use_of_a_gpu_is_sampled_while_something_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "SECONDS_BETWEEN", 0.01)
    answers = iter(["10, 500\n", "90, 700\n", "80, 600\n"])

    def ask(query: str, gpu: str) -> str:
        assert (query, gpu) == ("utilization.gpu,memory.used", "1")
        return next(answers, "80, 600")

    with GpuWatch("1", ask) as watch:
        while len(watch.seen) < 5:
            time.sleep(0.01)
    assert watch.usage() == Usage(80.0, 700.0)


@pytest.mark.parametrize(
    ("answer", "told"), [(FileNotFoundError("nvidia-smi"), "is not there"), ("[N/A], [N/A]", "does not tell")]
)
def test_what_the_driver_does_not_tell_is_said(
    answer: str | Exception, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage, "SECONDS_BETWEEN", 0.01)

    def ask(query: str, gpu: str) -> str:
        if isinstance(answer, Exception):
            raise answer
        return answer

    with GpuWatch("0", ask) as watch:
        while not watch.problem:
            time.sleep(0.01)
    assert watch.usage()[:2] == (None, None)
    assert told in watch.usage().problem


def test_the_driver_numbers_gpus_on_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [gpu_id(name) for name in ("cuda", "cuda:3")] == ["0", "3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5, GPU-1a2b")
    assert [gpu_id(name) for name in ("cuda", "cuda:1")] == ["5", "GPU-1a2b"]


def test_the_command_writes_what_it_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [Row(WAYS[0], 1, 10.0), Row(RESIDENT, 1, 80.0, usage=Usage(problem="nvidia-smi is not there"))]
    monkeypatch.setattr(command, "measure_device", lambda sizes, say: rows)
    out = tmp_path / "out.json"
    monkeypatch.setattr(sys, "argv", ["bench", "--device", "cpu", "--out", str(out)])
    command.main()
    printed = capsys.readouterr().out
    assert "8.00" in printed
    assert "note: nvidia-smi is not there" in printed
    assert "1.00 members an hour, 45.0 h" in printed
    content = json.loads(out.read_text())
    assert content["estimate"]["hours"] == 45.0
    assert [row["rate"] for row in content["rows"]] == [10.0, 80.0]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--device", "gpu"], "cpu, cuda or cuda:N"),
        (["--device", "cuda:99"], "torch sees"),
        (["--device", "cpu", "--members", "0"], "--members at least 1"),
        (["--device", "cpu", "--clips", "3"], "at least a batch"),
        (["--device", "cpu", "--out", "/nowhere/x.json"], "a folder that is there"),
    ],
)
def test_what_would_fail_later_is_told_at_once(
    given: list[str], told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", *given])
    with pytest.raises(SystemExit):
        command.main()
    assert told in capsys.readouterr().err
