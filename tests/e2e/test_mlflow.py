"""A study on a real MLflow server over PostgreSQL, and what a person sees there in a real browser."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow_server import Server
from postgres_server import postgres_server

pytestmark = pytest.mark.e2e

ROWS = ("MR+SL+Mixup", "mixup", "cutmix", "both")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("mlflow-server")
    with postgres_server(folder) as database:
        running = Server(database, folder)
        running.launch()
        running.wait()
        yield running
        running.down()


@pytest.mark.timeout(600)
def test_a_study_on_a_server_over_postgresql(
    asd: Callable, server: Server, study: Path, storage: Path, reference: Path
) -> None:
    words = ("run", study, "name=undisturbed", f"tracking.uri={server.uri}")
    for _ in range(2):  # the members are trained, all runs are logged; the second time nothing is logged again
        done = asd(*words)
        assert done.returncode == 0, done.stdout + done.stderr
        assert server.uri in done.stdout
    client = MlflowClient(server.uri)
    (experiment,) = [e for e in client.search_experiments() if e.name == "undisturbed"]
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    print(sorted((run.info.run_name, run.data.tags.get("kind")) for run in runs))
