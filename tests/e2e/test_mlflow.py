"""A study on a real MLflow server over PostgreSQL, and what a person sees there in a real browser."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pyarrow.csv as pc
import pytest
from browser import Browser
from mlflow import MlflowClient
from mlflow_server import Server
from postgres_server import postgres_server

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("mlflow-server")
    with postgres_server(folder) as database:
        running = Server(database, folder)
        running.launch()
        running.wait()
        yield running
        running.down()


@pytest.fixture(scope="module")
def experiment(asd: Callable, server: Server, study: Path, reference: Path) -> str:
    """The id of the study's experiment; the study is run twice, and the second time nothing is logged again."""
    for _ in range(2):
        done = asd("run", study, "name=undisturbed", f"tracking.uri={server.uri}")
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"{server.uri}/#/experiments/" in done.stdout
    found = MlflowClient(server.uri).get_experiment_by_name("undisturbed")
    assert found is not None
    return str(found.experiment_id)


def test_every_row_and_member_is_logged_once(server: Server, experiment: str, reference: Path) -> None:
    client = MlflowClient(server.uri)
    runs = client.search_runs([experiment], max_results=1000)
    kinds = [run.data.tags["asd.kind"] for run in runs]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {"study": 1, "system": 3, "member": 4}
    table = pc.read_csv(reference / "results.csv").to_pylist()
    rows = {run.data.tags["asd.name"]: run for run in runs if run.data.tags["asd.kind"] == "system"}
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert sorted(round(100 * run.data.metrics["official"], 2) for run in rows.values()) == sorted(
        round(row["official"], 2) for row in table
    )
    computed = {run.data.params["made_on.device"] for run in runs if run.data.tags["asd.kind"] == "member"}
    assert computed == {"cpu"}
    for name, run in rows.items():
        assert run.data.params["backend.clusters"] == "16"
        alone = [r.data.metrics["official"] for r in runs if r.data.params.get("group") == name]
        if alone:  # a row of one group: its members are its seeds
            assert sum(alone) / len(alone) == pytest.approx(run.data.metrics["seed_mean"])
        files = {item.path for item in client.list_artifacts(run.info.run_id)}
        assert "official_result.csv" in files, (name, files)


def test_a_person_finds_the_rows_and_their_scores(
    browser: Browser, server: Server, experiment: str, reference: Path, tmp_path: Path
) -> None:
    """MLflow's own pages: the table, filtered and sorted as the experiment's description says, and *Compare*."""
    pictures = Path(os.environ.get("ASD_SCREENSHOTS", tmp_path))
    rows, order = quote("tags.asd.kind = 'system'"), quote("metrics.`official`")
    table = f"{server.uri}/#/experiments/{experiment}/runs?searchFilter={rows}&orderByKey={order}&orderByAsc=false"
    scores = official(server, experiment)
    best_first = sorted(scores, key=lambda name: -scores[name])
    named = f"document.body.innerText.split('\\n').filter(line => {best_first}.includes(line)).join()"
    with browser.page(table, (1600, 900)) as page:
        page.until("document.body.innerText.includes('3 matching runs')")
        page.until(f"{named} === {','.join(best_first)!r}")  # the table's lines are drawn after its count
        page.look(pictures / "mlflow_rows.png", whole=False)
    found = MlflowClient(server.uri).search_runs([experiment], "tags.asd.kind = 'system'")
    runs, experiments = quote(json.dumps([run.info.run_id for run in found])), quote(json.dumps([experiment]))
    with browser.page(f"{server.uri}/#/compare-runs?runs={runs}&experiments={experiments}", (1600, 1400)) as page:
        page.until("document.body.innerText.includes('Parallel Coordinates')")
        page.until("document.body.innerText.includes('gearbox/hmean')")
        text = page.value("document.body.innerText")
        page.look(pictures / "mlflow_compare.png", whole=False)
    for name, score in scores.items():
        assert name in text
        assert f"{round(score, 3):g}" in text.splitlines(), (name, score, text)


def official(server: Server, experiment: str) -> dict[str, float]:
    """Each row's official score, as the results have it."""
    found = MlflowClient(server.uri).search_runs([experiment], "tags.asd.kind = 'system'")
    return {run.data.tags["asd.name"]: run.data.metrics["official"] for run in found}
