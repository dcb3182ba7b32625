"""A factory of two machines and a study of four small members, run through the real command line."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import NODE, clean_env, command

from orchestrator.data.synth import FactoryOptions, make_factory

STUDY = """
name: tiny
data: {root: FACTORY}
storage: STORAGE
seeds: 2
recipe:
  clip_seconds: 1.0
  branches: [{kind: stft, n_fft: 512}, {kind: stft, n_fft: 128, tmn: false}]
  embedding_dim: 2048         # large checkpoints, so that a kill can hit one being written
  batch_size: 8
  epochs: 4
  checkpoints: [3, 4]
groups:
  mixup: {}
  cutmix: {augmentation: {kind: cutmix}}
systems:
  mixup: {groups: [mixup]}
  cutmix: {groups: [cutmix]}
  both: {groups: [mixup, cutmix], title: "mixup and cutmix"}
"""


@pytest.fixture(scope="session")
def factory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("factory")
    options = FactoryOptions(
        machines=("fan", "gearbox"), train_source=10, train_target=2, test_per_condition=3, seconds=1.0, external=0
    )
    make_factory(folder, options)
    return folder


@pytest.fixture(scope="session")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="session")
def study(factory: Path, storage: Path) -> Path:
    path = storage / "tiny.yaml"
    path.write_text(STUDY.replace("FACTORY", str(factory)).replace("STORAGE", str(storage)))
    return path


@pytest.fixture(scope="session")
def asd() -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*arguments: object, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=timeout, env=clean_env())

    return run


@pytest.fixture(scope="session")
def reference(asd: Callable[..., subprocess.CompletedProcess[str]], study: Path, storage: Path) -> Path:
    """The folder of an undisturbed run; what it printed lies beside it."""
    done = asd("run", study, "name=undisturbed")
    assert done.returncode == 0, done.stdout + done.stderr
    (storage / "undisturbed.txt").write_text(done.stdout)
    return storage / "undisturbed"


@pytest.fixture
def cluster() -> Iterator[object]:
    """A Ray cluster of processes on this machine, each with one CPU and an object store; so far a head alone."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args=NODE)
    try:
        yield made
    finally:
        made.shutdown()
