"""The fast way is the same science as the common one, and the benchmark counts what it says."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from models.metrics import official_score, section_figures
from models.plain import PlainExtractor
from orchestrator.bench.external import plain_loop, steady_rate, write_world
from orchestrator.bench.memory import PeakMemory, pss_mib
from orchestrator.bench.rounds import Figure, common, farm, measure
from orchestrator.bench.suite import ratio
from orchestrator.config import Study
from orchestrator.data.synth import FactoryOptions, make_factory
from orchestrator.errors import ResourceError
from orchestrator.loading import load_study
from orchestrator.plan import make_plan
from orchestrator.recipes import StftBranchConfig
from orchestrator.single import train_single
from orchestrator.trainees import extractor

STUDY = """
name: NAME
data: {root: ROOT/factory}
storage: ROOT
seeds: 3
recipe:
  clip_seconds: 1.0
  branches: [{kind: stft, n_fft: 512}, {kind: stft, n_fft: 128, tmn: false}]
  batch_size: 8
  epochs: 4
  checkpoints: [4]
groups: {mixup: {}}
systems: {mixup: {groups: [mixup]}}
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    options = FactoryOptions(
        machines=("fan", "slider"), train_source=20, train_target=3, test_per_condition=12, seconds=1.0, external=0
    )
    make_factory(folder / "factory", options)
    return folder


def scores(root: Path, name: str, *overrides: str) -> tuple[Study, np.ndarray]:
    """Scores of every clip, (seeds, clips)."""
    path = root / f"{name}.yaml"
    path.write_text(STUDY.replace("NAME", name).replace("ROOT", str(root)))
    study, rows = load_study(path, overrides), []
    for seed in study.seeds:
        member = train_single(study, "mixup", seed, "cpu", 1, lambda stage, clips: None)
        (table,) = [file for file in member.names() if file.startswith("scores_")]
        rows.append(member.read_table(table)["score"].to_numpy())
    return study, np.array(rows)


def official(study: Study, score_N: np.ndarray) -> float:
    """The official score in percent, from the clips' own names."""
    clips, figures = make_plan(study).clips.to_pylist(), []
    for machine in sorted({clip["machine"] for clip in clips}):
        own = [i for i, clip in enumerate(clips) if clip["machine"] == machine and clip["split"] == "test"]
        anomaly = np.array(["anomaly" in clips[i]["path"] for i in own])
        target = np.array([clips[i]["domain"] == "target" for i in own])
        figures.append(section_figures(anomaly, target, score_N[own]))
    found = official_score(figures)
    assert found is not None
    return 100 * found


@pytest.mark.timeout(300)
def test_fast_and_common_training_give_the_same_science(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After four epochs: float32 to float32 nearly the same scores, and with bfloat16 the same ranking and figure.

    Tolerances: rank correlation 0.99 (float32) and 0.9 (bfloat16) of every seed; official scores, seeds averaged,
    within the standard deviation of the seeds, but for a percentage point.
    """
    study, fast = scores(root, "fast")
    _, exact = scores(root, "exact", "recipe.precision=float32")
    monkeypatch.setattr(extractor, "build_extractor", partial(extractor.build_extractor, kind=PlainExtractor))
    _, plain = scores(root, "plain", "recipe.precision=float32")
    test = np.array([clip["split"] == "test" for clip in make_plan(study).clips.to_pylist()])
    for seed in range(3):
        assert spearmanr(exact[seed, test], plain[seed, test]).statistic > 0.99
        assert spearmanr(fast[seed, test], plain[seed, test]).statistic > 0.9
    figures = {name: [official(study, row) for row in rows] for name, rows in (("fast", fast), ("plain", plain))}
    spread = float(np.std(figures["plain"], ddof=1))
    assert abs(np.mean(figures["fast"]) - np.mean(figures["plain"])) < spread + 1, figures


def test_rates_are_counted_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    def rates(ticks: list[float], counts: list[int], **given: float) -> tuple[float, float]:
        clock = iter(ticks)
        monkeypatch.setattr("orchestrator.bench.external.time.perf_counter", lambda: next(clock))
        return steady_rate(iter(counts), **given)

    assert rates([0.0, 2.0, 6.0], [0, 4, 8]) == (8 / 4.0, 12 / 6.0)
    assert rates([0.0, 2.0, 2.5, 4.0, 4.5], [5, 5, 5, 5], side_by_side=2) == (10 / 2.25, 20 / 4.5)
    assert rates([0.0, 2.0, 4.0, 6.0], [3, 3, 3, 99], seconds=5.0) == (6 / 4.0, 9 / 6.0)
    with pytest.raises(ValueError, match="2 units are too few"):
        rates([0.0, 2.0, 2.5], [5, 5], side_by_side=2)


def test_peak_memory_is_that_of_the_whole_family() -> None:
    """A grandchild that holds 200 MiB counts, and what it held is remembered when it is gone."""
    hold = "import sys; held = bytearray(200 << 20); print(len(held), flush=True); sys.stdin.read()"
    command = ["bash", "-c", f"{sys.executable} -c '{hold}'; true"]
    with PeakMemory() as before:  # other tests may have left a Ray running
        pass
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdout.readline()
    with PeakMemory() as peak:
        pass
    child.communicate()
    assert 180 < peak.mib - before.mib < 300
    assert pss_mib(child.pid) == 0


def test_ratios_are_taken_round_by_round() -> None:
    base, ours = Figure((10.0, 20.0, 10.0), 1.0), Figure((40.0, 60.0, 50.0), 1.0)
    assert ratio(base, ours) == {"median": 4.0, "smallest": 3.0, "largest": 5.0}


def test_processes_measure_and_their_rates_add_up() -> None:
    sizes = {"clip_seconds": 4.5, "batch": 2, "clips": 4, "seconds": 0.2}
    cases = {"common": common("train", 2, **sizes), "ours": farm("infer", 2, **sizes)}
    said: list[str] = []
    figures = measure(cases, 1, said.append)
    assert all(figure.median > 0 and figure.memory_mib > 200 for figure in figures.values())
    assert len(said) == 2
    broken = {"train": common("train", 1, device="cuda:99", **sizes)}
    with pytest.raises(ResourceError, match="a benchmark process failed"):
        measure(broken, 1, said.append)


def test_every_candidate_is_scored_once(tmp_path: Path) -> None:
    world = write_world(tmp_path, 70, seconds=1.0, seeds=1, branches=(StftBranchConfig(kind="stft", n_fft=512),))
    assert list(plain_loop(world)) == [64, 6]
