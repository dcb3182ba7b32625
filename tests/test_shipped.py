"""What users copy and paste: shipped studies load, and every `asd` command of the README exists."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT
from typer.main import get_command

from jobs.__main__ import app
from orchestrator.loading import load_study
from orchestrator.recipes import AutoencoderRecipe, ExtractorRecipe

STUDIES = sorted((ROOT / "configs" / "studies").glob("*.yaml"))
PUBLISHED = {
    "baseline-mse": 55.35,
    "baseline-mahalanobis": 55.02,
    "featex-mixup": 63.62,
    "mr-sl-mixup": 64.42,
    "mr-sl-cutmix": 64.21,
    "mr-sl": 64.72,
    "mr-sl-pa": 66.91,
    "mr-sl-as": 65.16,
    "mr-sl-pa-as": 67.26,
    "nu-ensemble": 67.05,
}
TEXTS = [ROOT / "README.md", *STUDIES]
JOBS = "synth|prepare|scan|plan|run|train|tune|coreset|evaluate|compare|report|export|score|serve"
COMMAND = re.compile(rf"asd (?:{JOBS})\b[^`|\n]*")


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_shipped_study_loads_and_its_header_tells_what_it_costs(path: Path) -> None:
    study = load_study(path)
    assert study.name == path.stem
    header = path.read_text().split("\nname:")[0]
    for word in ("reproduces", "cost", "command"):
        assert re.search(rf"^# {word}\b", header, re.MULTILINE), word


def test_table1_holds_the_values_of_the_report() -> None:
    study = load_study(ROOT / "configs" / "studies" / "table1.yaml")
    assert study.seeds == (0, 1, 2, 3, 4)
    autoencoder = study.groups["autoencoder"]
    assert isinstance(autoencoder, AutoencoderRecipe)
    assert (autoencoder.batch_size, autoencoder.epochs, autoencoder.learning_rate) == (256, 100, 1e-3)
    extractors = {name: recipe for name, recipe in study.groups.items() if name != "autoencoder"}
    assert len(extractors) * len(study.seeds) == 45
    for name, recipe in extractors.items():
        assert isinstance(recipe, ExtractorRecipe)
        assert (recipe.pseudo_labels, recipe.core_set) == ("-pa" in name, "-as" in name)
        assert recipe.augmentation.kind == name.rpartition("-")[2]
        assert recipe.augmentation.chance() == {"mixup": 0.5, "cutmix": 0.75}[recipe.augmentation.kind]
        assert (recipe.epochs, recipe.checkpoints, recipe.batch_size) == (18, (14, 16, 18), 64)
        assert (recipe.learning_rate, recipe.sub_clusters, recipe.embedding_dim) == (1e-3, 16, 128)
    assert {name: system.published["official"] for name, system in study.systems.items()} == PUBLISHED
    row = study.systems["mr-sl-pa-as"]
    assert (row.id, row.published["slider"], row.published["gearbox"]) == ("③", 91.11, 64.31)
    assert all(len(system.published) == 8 for system in study.systems.values())
    labels, core_set = study.pseudo_labels, study.core_set
    assert (labels.clusters, labels.threshold, labels.encoder.epochs, labels.encoder.batch_size) == (16, 0.95, 6, 32)
    assert core_set is not None
    assert (core_set.group, core_set.epoch, core_set.percentile, core_set.most) == ("mr-sl-pa-mixup", 18, 100, 100)
    assert (study.backend.clusters, study.ensemble.percentile) == (16, 90)


def commands() -> list[str]:
    found = {match[0].strip().rstrip(")") for text in TEXTS for match in COMMAND.finditer(text.read_text())}
    return sorted(command.split(" && ")[0].split("     ")[0].strip() for command in found)


@pytest.mark.parametrize("line", commands())
def test_every_command_that_we_show_is_one(line: str) -> None:
    words = [word for word in shlex.split(line.replace("...", "")) if not re.fullmatch(r"\[.*|.*\]", word)]
    job = get_command(app).commands[words[1]]  # type: ignore[attr-defined]
    job.make_parser(job.make_context(words[1], [], resilient_parsing=True)).parse_args(list(words[2:]))
    for option in (word for word in words[2:] if word.startswith("--")):
        assert any(option in parameter.opts for parameter in job.params), option
    for override in (word for word in words[2:] if re.fullmatch(r"[a-z_.]+=.+", word)):
        data = ["data.root=somewhere"]
        load_study(ROOT / "configs" / "studies" / "demo.yaml", [*data, override.replace("N", "1")])


def test_constraints_pin_versions_and_name_no_host() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[A-Za-z0-9_.\-]+==[A-Za-z0-9_.+\-!]+", line) for line in lines)
    assert {"torch==2.11.0", "torchaudio==2.11.0", "ray==2.60.0"} <= set(lines)


def test_the_packages_are_ours() -> None:
    told = subprocess.run(
        [sys.executable, "-c", "import models, jobs, orchestrator; print(models.__file__)"],
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
    )
    assert Path(told.stdout.strip()).is_relative_to(ROOT)


def test_ci_runs_what_the_readme_names() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    assert "make check" in script
    assert "make test" in script


@pytest.mark.parametrize("name", ["demo", "real_mini_ten_rows", "table1"])
def test_ten_rows_are_the_reports(name: str) -> None:
    study = load_study(ROOT / "configs" / "studies" / f"{name}.yaml")
    table1 = load_study(ROOT / "configs" / "studies" / "table1.yaml")
    assert list(study.systems) == list(PUBLISHED)
    for key, system in study.systems.items():
        asked = table1.systems[key]
        assert (system.groups, system.id, study.score_of(key)) == (asked.groups, asked.id, table1.score_of(key))
