"""The `asd` command: one subcommand per job."""

import atexit
import os
import sys
from contextlib import suppress

import typer

from jobs.bench import bench
from jobs.cluster_jobs import jobs, submit
from jobs.compare import compare
from jobs.coreset import coreset
from jobs.evaluate import evaluate
from jobs.export import export
from jobs.plan import plan
from jobs.prepare import prepare
from jobs.report import report
from jobs.run import run
from jobs.scan import scan
from jobs.score import score
from jobs.serve import serve
from jobs.synth import synth
from jobs.train import train
from jobs.tune import tune
from orchestrator.errors import UserError

app = typer.Typer(
    help="Ray-based distributed ensembles for anomalous sound detection.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)
TRAINING = (synth, prepare, scan, plan, run, train, tune, coreset, submit)
RESULTS = (evaluate, compare, report, export, score, serve, bench)
for job in (*TRAINING, *RESULTS):
    app.command()(job)
app.add_typer(jobs, name="jobs")


def run_job() -> None:
    """Run one job; what the user can mend is printed as a message (exit code 2), never as a traceback."""
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def main() -> None:
    """`run_job` as a process, without the two seconds in which Python would take its modules apart at the end."""
    code = 1  # that of a traceback
    atexit.register(lambda: _leave(code))  # the first to register is the last to be called
    try:
        run_job()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        raise


def _leave(code: int) -> None:
    try:
        for stream in filter(None, (sys.stdout, sys.stderr)):  # None: closed before we began
            with suppress(BrokenPipeError):  # who read it is gone
                stream.flush()
    except OSError as error:
        os.write(2, f"error: the output could not be written: {error}\n".encode())
        code = code or 1
    finally:
        os._exit(code)


if __name__ == "__main__":
    main()
