"""A cluster whose nodes come and go: a study loses one in the middle of training, uses one that joins, same scores."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support import NODE, clean_env, command, scores, wait_for

pytestmark = pytest.mark.e2e


@pytest.mark.timeout(600)
def test_a_node_is_lost_and_another_joins(cluster, asd: Callable, study: Path, storage: Path, reference: Path) -> None:
    second = cluster.add_node(**NODE)
    folder = storage / "nodes"
    run = subprocess.Popen(
        command("run", study, "name=nodes", f"cluster.address={cluster.address}"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=clean_env(),
    )
    try:
        wait_for(lambda: list(folder.glob("members/*/progress.json")), run, seconds=240, pause_seconds=0.1)
        cluster.remove_node(second, allow_graceful=False)
        cluster.add_node(**NODE)
        told, _ = run.communicate(timeout=400)
    finally:
        run.kill()
    assert run.returncode == 0, told
    assert scores(folder) == scores(reference)
