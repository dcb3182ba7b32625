"""When a run starts Ray: early, beside its imports, where it certainly trains; not where there may be nothing to do."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator import study as entry
from orchestrator.config import ClusterConfig, Study
from orchestrator.errors import ResourceError
from orchestrator.loading import study_store
from orchestrator.runtime import _inherited, worker_environment

TELEMETRY = "MLFLOW_DISABLE_TELEMETRY"


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[ClusterConfig]:
    """The clusters that Ray was started for; nothing is really started."""
    seen: list[ClusterConfig] = []

    @contextmanager
    def session(cluster: ClusterConfig) -> Iterator[None]:
        seen.append(cluster)
        with _inherited(worker_environment()):  # as while a local Ray starts
            pass
        yield

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(entry, "ray_session", session)
    return seen


def small(folder: Path, **cluster: object) -> Study:
    groups = {"a": {"clip_seconds": 5.0, "epochs": 1, "checkpoints": [1]}}
    return Study.model_validate(
        {
            "name": "small",
            "storage": str(folder),
            "data": {"root": str(folder)},
            "groups": groups,
            "systems": {"a": {"groups": ["a"]}},
            "cluster": cluster,
        }
    )


def test_a_study_without_results_has_a_ray_before_its_stages(tmp_path: Path, started: list[ClusterConfig]) -> None:
    study = small(tmp_path)
    with entry._started_early(study, study_store(study)):
        assert started == [study.cluster]


@pytest.mark.parametrize("address", ["127.0.0.1:6379", "auto"])
def test_a_cluster_is_joined_later(tmp_path: Path, started: list[ClusterConfig], address: str) -> None:
    study = small(tmp_path, address=address)
    with entry._started_early(study, study_store(study)):
        assert started == []


def test_a_study_with_results_starts_none(tmp_path: Path, started: list[ClusterConfig]) -> None:
    study = small(tmp_path)
    study_store(study).write("results.csv", b"there")
    with entry._started_early(study, study_store(study)):
        assert started == []


def test_settings_of_mlflow_outlast_the_start(
    tmp_path: Path, started: list[ClusterConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(TELEMETRY, raising=False)
    study = small(tmp_path)
    with entry._started_early(study, study_store(study)):
        assert os.environ[TELEMETRY] == "true"


def test_a_ray_that_does_not_start_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def broken(cluster: ClusterConfig) -> Iterator[None]:
        raise ResourceError("Ray does not start")
        yield

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(entry, "ray_session", broken)
    study = small(tmp_path)
    with pytest.raises(ResourceError, match="does not start"), entry._started_early(study, study_store(study)):
        pytest.fail("went on")
