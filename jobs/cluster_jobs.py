"""`asd submit` and `asd jobs`: the other commands, run as jobs of a Ray cluster."""

import sys
import tempfile
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from jobs.terminal import terminal
from orchestrator.remote.package import LIMIT_MIB

if TYPE_CHECKING:
    from orchestrator.remote.cluster import Cluster, Ended

Address = Annotated[
    str | None,
    typer.Option(
        help="the cluster's dashboard, such as http://HEAD:8265; unset: RAY_API_SERVER_ADDRESS, then this machine's"
    ),
]
JobId = Annotated[str, typer.Argument(help="as `asd submit` and `asd jobs list` print it")]

jobs = typer.Typer(help="List, follow or stop what `asd submit` sent.", no_args_is_help=True)


def submit(
    words: Annotated[list[str], typer.Argument(help="the command, after `--`: run STUDY data.root=s3://...")],
    address: Address = None,
    wait: Annotated[bool, typer.Option(help="show the job's output and end as it ends; else return at once")] = True,
    env: Annotated[
        list[str] | None,
        typer.Option(help="KEY=VALUE, or KEY for its value here; Ray's dashboard shows these, secrets too"),
    ] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="pattern of files not to send: 'configs/old/*'")] = None,
    limit_mib: Annotated[float, typer.Option(min=0.1, help="refuse to send more than this")] = LIMIT_MIB,
    python: Annotated[str, typer.Option(help="the cluster's Python, where the packages are installed")] = "python",
) -> None:
    """Run a command on a Ray cluster with this machine's code; data and results stay where the study says."""
    from orchestrator.remote.cluster import Cluster, environment
    from orchestrator.remote.order import read_order
    from orchestrator.remote.package import pack

    order, variables = read_order(words), environment(env or [])
    console = terminal()
    with tempfile.TemporaryDirectory(prefix="asd-submit-") as folder:
        package = pack(Path(folder), order.files, exclude or [], limit_mib)
        console.print(
            f"sending {package.mib:.2f} MiB of code in {len(package.sizes)} files; largest: {package.largest(3)}",
            soft_wrap=True,
        )
        cluster = Cluster(address)
        cluster.check_version()
        job = cluster.submit(order, package, variables, python)
    console.print(f"job {job} is at {cluster.address}", soft_wrap=True)
    if not wait:
        where = f" --address {cluster.address}" if address else ""
        console.print(f"next: asd jobs follow {job}{where}   (or: asd jobs stop {job}{where})", soft_wrap=True)
        return
    _follow(cluster, job)


@jobs.command("list")
def list_jobs(address: Address = None) -> None:
    """Jobs of a cluster that `asd submit` sent, the latest first."""
    from orchestrator.display import duration
    from orchestrator.remote.cluster import OURS, Cluster

    cluster = Cluster(address)
    table = Table("job", "study", "state", "started", "took", "command", title=f"jobs at {cluster.address}")
    for job in cluster.jobs():
        begin = (job.start_time or 0) / 1000
        end = job.end_time / 1000 if job.end_time else datetime.now().timestamp()
        table.add_row(
            job.submission_id,
            (job.metadata or {}).get(OURS, ""),
            str(job.status.value),
            f"{datetime.fromtimestamp(begin):%Y-%m-%d %H:%M}" if begin else "",
            duration(max(0.0, end - begin)) if begin else "",
            job.entrypoint.partition("entry.py ")[2],
        )
    console = terminal()
    console.print(table)
    console.print("next: asd jobs follow JOB, or asd jobs stop JOB")


@jobs.command()
def follow(job: JobId, address: Address = None) -> None:
    """Show a job's output from its start, wait for its end, and end as it ended."""
    from orchestrator.remote.cluster import Cluster

    _follow(Cluster(address), job)


@jobs.command()
def stop(job: JobId, address: Address = None) -> None:
    """End a job; what it finished stays, and the same `asd submit` goes on from there."""
    from orchestrator.remote.cluster import Cluster

    terminal().print(f"job {job}: {Cluster(address).stop(job).status}")


def _follow(cluster: "Cluster", job: str) -> None:
    """Exits with the job's own exit code."""

    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    try:
        ended = cluster.follow(job, write)
    except KeyboardInterrupt:
        terminal().print(
            f"\nthe job goes on. asd jobs follow {job} --address {cluster.address} shows it, asd jobs stop ends it",
            soft_wrap=True,
        )
        raise typer.Exit(130) from None
    _tell(ended, job)


def _tell(ended: "Ended", job: str) -> None:
    reason = f": {ended.message}" if ended.exit_code and ended.message else ""
    terminal().print(f"job {job}: {ended.status}{reason}", soft_wrap=True)
    raise typer.Exit(ended.exit_code)
