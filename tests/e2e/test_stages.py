"""Pseudo-labels, core-set and autoencoders through the real command line: killed in each stage, empty, compared."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from support import NODE, clean_env, command, kill_driver, scores, wait_for

from orchestrator.data.synth import FactoryOptions, make_factory

pytestmark = pytest.mark.e2e

STUDY = """
name: stages
data: {root: FACTORY}
storage: STORAGE
seeds: 2
recipe:
  clip_seconds: 1.0
  branches: [{kind: stft, n_fft: 512}]
  batch_size: 8
  epochs: 2
  checkpoints: [1, 2]
backend: {clusters: 4}
pseudo_labels:
  clusters: 4
  truth: FACTORY/true_attributes.csv
  encoder: {clip_seconds: 1.0, n_fft: 512, batch_size: 4, epochs: 2}
core_set:
  group: pa
  most: 5
  sources: [{parquet: FACTORY/external}]
groups:
  ae: {kind: autoencoder, epochs: 2}
  plain: {}
  pa: {pseudo_labels: true}
  as: {core_set: true}
  pa-as: {pseudo_labels: true, core_set: true}
systems:
  mse: {groups: [ae]}
  mahalanobis: {groups: [ae], score: mahalanobis}
  plain: {groups: [plain]}
  pa: {groups: [pa]}
  as: {groups: [as]}
  pa-as: {groups: [pa-as]}
  all: {groups: [pa, as, pa-as], published: {official: 67.05, fan: 60.07}}
"""


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stages")
    options = FactoryOptions(
        machines=("fan", "gearbox"),
        without_attributes=("gearbox",),
        train_source=10,
        train_target=2,
        test_per_condition=3,
        seconds=1.0,
        external=90,
    )
    make_factory(folder / "factory", options)
    path = folder / "stages.yaml"
    path.write_text(STUDY.replace("FACTORY", str(folder / "factory")).replace("STORAGE", str(folder)))
    return path


@pytest.fixture(scope="module")
def whole(asd: Callable[..., subprocess.CompletedProcess[str]], stages: Path) -> Path:
    """The folder of an undisturbed run; what it printed lies beside it."""
    done = asd("run", stages)
    assert done.returncode == 0, done.stdout + done.stderr
    (stages.parent / "whole.txt").write_text(done.stdout)
    return stages.parent / "stages"


def chosen(folder: Path) -> list[tuple[str, str, float]]:
    (path,) = folder.glob("core_set/*/core_set.parquet")
    table = pq.read_table(path, columns=["clip_id", "machine", "score"])
    return sorted(tuple(row.values()) for row in table.to_pylist())


def test_all_stages_leave_what_they_promise(stages: Path, whole: Path) -> None:
    told = (stages.parent / "whole.txt").read_text()
    assert "pseudo-labels of gearbox_section_00: 12 clips" in told
    assert "ARI" in told
    (labels,) = whole.glob("pseudo_labels/*/pseudo_labels.parquet")
    rows = pq.read_table(labels).to_pylist()
    assert len(rows) == 12
    assert {row["machine"] for row in rows} == {"gearbox"}
    assert all(row["labels"] for row in rows)
    assert (labels.parent / "gearbox_section_00.png").read_bytes().startswith(b"\x89PNG")
    assert 0 < len(chosen(whole)) <= 2 * 5
    (summary,) = whole.glob("core_set/*/summary.json")
    counted = json.loads(summary.read_text())["candidates"]
    assert counted["seen"] == 90
    assert counted["listed"] < 90
    # 2 autoencoders, 2 encoders, 2 seeds of four groups of extractors
    assert len(list(whole.glob("members/*/done.json"))) == 2 + 2 + 4 * 2
    lines = (whole / "results.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines[1:]] == ["mse", "mahalanobis", "plain", "pa", "as", "pa-as", "all"]
    assert [line.split(",")[1] for line in lines[1:]] == ["1", "1", "4", "4", "4", "4", "12"]


@pytest.mark.timeout(900)
def test_killed_in_each_stage_it_goes_on_with_the_same_scores(asd: Callable, stages: Path, whole: Path) -> None:
    folder = stages.parent / "killed"
    moments = [
        lambda: list(folder.glob("members/*/progress.json")),  # encoders, first extractors
        lambda: list(folder.glob("pseudo_labels/*/pseudo_labels.parquet")),  # before their members
        lambda: list(folder.glob("external_scores/*/*.parquet")),  # in the middle of external scoring
        lambda: list(folder.glob("core_set/*/summary.json")),  # before the last members
    ]
    for moment in moments:
        process = subprocess.Popen(
            command("run", stages, "name=killed"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=clean_env(),
        )
        wait_for(moment, process, seconds=240, pause_seconds=0.05)
        kill_driver(process)
    done = asd("run", stages, "name=killed")
    assert done.returncode == 0, done.stdout + done.stderr
    assert chosen(folder) == chosen(whole)
    assert scores(folder) == scores(whole)


@pytest.mark.timeout(600)
def test_a_node_is_lost_in_external_scoring(cluster, asd: Callable, stages: Path, whole: Path) -> None:
    """The chooser is trained, so that only the scoring and what follows it is left."""
    folder = stages.parent / "node-lost"
    shutil.copytree(whole, folder)
    for part in ("external_scores", "core_set"):
        shutil.rmtree(folder / part)
    second = cluster.add_node(**NODE)
    run = subprocess.Popen(
        command("run", stages, "name=node-lost", f"cluster.address={cluster.address}"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=clean_env(),
    )
    try:
        wait_for(lambda: list(folder.glob("external_scores/*/*.parquet")), run, seconds=240, pause_seconds=0.02)
        cluster.remove_node(second, allow_graceful=False)
        told, _ = run.communicate(timeout=400)
    finally:
        run.kill()
    assert run.returncode == 0, told
    assert chosen(folder) == chosen(whole)
    assert scores(folder) == scores(whole)


def test_an_empty_core_set_trains_nothing_twice_and_says_so(asd: Callable, stages: Path, whole: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.glob("members/*/done.json")}
    done = asd("run", stages, "core_set.classes=[Ship]")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the core-set is empty" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in whole.glob("members/*/done.json")} == before
    rows = {line.split(",")[0]: line.split(",")[1:] for line in (whole / "results.csv").read_text().splitlines()}
    assert rows["as"] == rows["plain"]
    assert rows["pa-as"] == rows["pa"]
    assert asd("run", stages).returncode == 0  # leaves the results of the study as they were


def test_coreset_alone_finds_what_is_there_and_names_what_is_missing(asd: Callable, stages: Path, whole: Path) -> None:
    done = asd("coreset", stages)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "90 external clips" in done.stdout
    refused = asd("coreset", stages, "name=untrained")
    assert refused.returncode == 2
    assert "core_set.group pa waits for pseudo-labels; run `asd run` on this study first" in refused.stderr


def test_a_plan_says_what_waits(asd: Callable, stages: Path) -> None:
    told = asd("plan", stages, "name=fresh").stdout
    assert told.count("waits for pseudo-labels") == 1
    assert told.count("waits for core-set") == 2
    assert not (stages.parent / "fresh").exists()


def test_rows_are_compared_side_by_side(asd: Callable, whole: Path) -> None:
    done = asd("compare", whole, "--against", "plain", "--rounds", 200)
    assert done.returncode == 0, done.stdout + done.stderr
    for text in ("gearbox*", "(60.07)", "67.05", "published", "difference (95 %)", "compare.md"):
        assert text in done.stdout, text
    lines = (whole / "compare.md").read_text().splitlines()
    assert len([line for line in lines if line.startswith("|")]) == 2 + 7
    assert "**" in (whole / "compare.md").read_text()
    ours = {line.split(",")[1]: line for line in (whole / "compare.csv").read_text().splitlines()}
    official = {line.split(",")[0]: line.split(",")[2] for line in (whole / "results.csv").read_text().splitlines()}
    assert all(official[name] in ours[name] for name in official if name != "system")
    (table,) = (whole.parent / "mlartifacts").rglob("compare.json")
    assert [row[1] for row in json.loads(table.read_text())["data"]] == [name for name in official if name != "system"]
    again = asd("compare", whole)  # replaces the table, where MLflow itself would append
    assert again.returncode == 0, again.stderr
    assert len(json.loads(table.read_text())["data"]) == 7
    for name in ("pseudo_labels.parquet", "gearbox_section_00.png", "summary.json", "problems.csv"):
        assert list((whole.parent / "mlartifacts").rglob(name)), name
    wrong = asd("compare", whole, "--against", "nobody")
    assert wrong.returncode == 2
    assert "no such row; there are stages/mse" in wrong.stderr


def test_external_audio_that_cannot_be_used_stops_before_anything_is_trained(asd: Callable, stages: Path) -> None:
    empty = stages.parent / "no_shards"
    empty.mkdir()
    for source, message in ((empty, "no_shards"), (stages.parent / "gone", "gone")):
        refused = asd("run", stages, "name=refused", f"core_set.sources.0.parquet={source}")
        assert refused.returncode == 2, refused.stdout
        assert message in refused.stderr
    assert not (stages.parent / "refused").exists()
