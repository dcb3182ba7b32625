"""The shipped studies from end to end, cut down to one seed and one epoch."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
from support import ROOT

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
SHORT = ("seeds=1", "recipe.epochs=1", "recipe.checkpoints=[1]")


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_demo_goes_from_nothing_to_a_table_of_ten_rows(asd: Callable, tmp_path: Path) -> None:
    made = asd("synth", tmp_path / "factory", "--train-source", 6, "--test-per-condition", 2, "--external", 60)
    assert made.returncode == 0, made.stderr
    demo = ROOT / "configs" / "studies" / "demo.yaml"
    short = (*SHORT, "backend.clusters=4", "pseudo_labels.clusters=2", "pseudo_labels.encoder.epochs=1")
    done = asd("run", demo, f"data.root={tmp_path}/factory", f"storage={tmp_path}/results", *short, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "busy" not in done.stdout, "our own tasks were taken for somebody else's"
    rows = table(tmp_path / "results" / "demo")
    assert [row["system"] for row in rows][-4:] == [
        "④ MR+SL+(Mixup, Cutmix)+PA",
        "② MR+SL+(Mixup, Cutmix)+AS",
        "③ MR+SL+(Mixup, Cutmix)+PA+AS",
        "① (②, ③, ④)",
    ]
    assert [row["scores"] for row in rows] == ["1", "1", "1", "1", "1", "2", "2", "2", "2", "6"]
    machines = {"fan", "gearbox", "bearing", "slider", "valve", "ToyCar"}
    assert all(0 <= float(row[name]) <= 100 for row in rows for name in machines | {"official"})
    evaluated = asd(
        *("evaluate", tmp_path / "results" / "demo" / "systems" / "nu-ensemble"),
        *("--truth", tmp_path / "results" / "demo" / "clips.parquet"),
    )
    assert f"official score: {rows[-1]['official']} %" in evaluated.stdout, evaluated.stdout + evaluated.stderr


def test_real_recordings_go_from_flac_to_challenge_files(asd: Callable, shared: Path, tmp_path: Path) -> None:
    study = ROOT / "configs" / "studies" / "real_mini.yaml"
    root = shared / "data" / "real_mini"
    done = asd("run", study, f"data.root={root}", f"storage={tmp_path}", *SHORT, "recipe.clip_seconds=5", timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "real_mini"
    assert len(table(folder)) == 2
    for machine in ("ToyCar", "ToyConveyor", "fan", "pump", "slider", "valve"):
        scores = (
            (folder / "systems" / "mr-sl" / f"anomaly_score_{machine}_section_00_test.csv").read_text().splitlines()
        )
        assert [line.split(",")[0] for line in scores] == sorted(p.name for p in (root / machine / "test").iterdir())
