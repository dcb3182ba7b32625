"""The `asd` process itself: its exit code, what it prints at the end, and what it does not import."""

import subprocess
import sys

import pytest
from support import ROOT, clean_env, command


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=ROOT, env=clean_env()
    )


JOB = """
import atexit, sys, threading, time
import jobs.__main__ as process

def job():
    atexit.register(print, "cleaned up")
    threading.Thread(target=lambda: (time.sleep(0.5), print("thread done"))).start()
    print("said")
    ENDS

process.app = job
process.main()
"""


@pytest.mark.parametrize(
    ("ends", "code", "told"),
    [
        ("return", 0, ""),
        ("sys.exit()", 0, ""),
        ("sys.exit(3)", 3, ""),
        ("sys.exit('no')", 1, "no"),
        ("raise KeyError('bug')", 1, "KeyError: 'bug'"),
        ("from orchestrator.errors import DataError; raise DataError('broken wav')", 2, "error: broken wav"),
    ],
)
def test_a_process_ends_with_its_job_s_code_after_all_clean_up(ends: str, code: int, told: str) -> None:
    done = run_python(JOB.replace("ENDS", ends))
    assert done.returncode == code, done.stderr
    assert told in done.stderr
    assert done.stdout == "said\nthread done\ncleaned up\n"


def test_a_reader_that_leaves_is_no_fault() -> None:
    process = subprocess.Popen(
        command("--help"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=clean_env()
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert "Exception ignored" not in process.stderr.read()
    assert process.wait(timeout=60) in (0, 1)


def test_a_process_without_an_output_ends_all_the_same() -> None:
    line = f"{sys.executable} -m jobs --help >&-"
    done = subprocess.run(line, shell=True, capture_output=True, text=True, timeout=60, cwd=ROOT, env=clean_env())
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("module", ["orchestrator.loading", "orchestrator.study", "orchestrator.display"])
def test_what_checks_a_study_waits_for_no_torch(module: str) -> None:
    heavy = "{'torch', 'scipy', 'sklearn', 'mlflow', 'pandas'}"
    done = run_python(f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))")
    assert done.stdout == "[]\n", done.stdout + done.stderr
