"""Search files: every mistake at once, and from a point to the study that tries it."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from support import ROOT

from orchestrator.errors import ConfigError
from orchestrator.loading import load_study
from orchestrator.recipes import ExtractorRecipe
from orchestrator.tuning.config import read_search
from orchestrator.tuning.proposals import listed_points
from orchestrator.tuning.template import check_points, make_template

SHIPPED = sorted((ROOT / "configs" / "searches").glob("*.yaml"))
STUDY = {
    "name": "base",
    "data": {"root": "somewhere"},
    "seeds": 2,
    "recipe": {"epochs": 4, "checkpoints": [4], "learning_rate": 0.002, "clip_seconds": 10.0},
    "pseudo_labels": {"encoder": {"clip_seconds": "${recipe.clip_seconds}"}},
    "groups": {
        "plain": {},
        "own": {"learning_rate": 0.003, "branches": [{"kind": "stft", "n_fft": 512}]},
        "ae": {"kind": "autoencoder"},
    },
    "systems": {"plain": {"groups": ["plain"], "published": 64.0}, "ae": {"groups": ["ae"], "score": "mahalanobis"}},
}
SEARCH = {"name": "hunt", "study": STUDY, "group": "plain", "space": {"recipe.learning_rate": [0.1, 0.2]}, "trials": 2}


def written(folder: Path, **changes: object) -> Path:
    path = folder / "search.yaml"
    path.write_text(yaml.safe_dump({**SEARCH, **changes}))
    return path


def mistakes(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read_search(path, overrides)
    return str(caught.value)


def test_all_mistakes_are_told_at_once_with_the_nearest_name(tmp_path: Path) -> None:
    path = written(tmp_path, metod="grid", space={"a": {"chioce": [1]}}, trials=0, asha={"grace": 2}, metric="offical")
    told = mistakes(path)
    assert "5 mistake(s)" in told
    grace = "asha.grace: unknown key; did you mean `grace_epochs`?"
    for part in ("did you mean `method`?", "choice, uniform", "trials: ", grace, "'official'"):
        assert part in told


def test_fields_outside_recipe_and_backend_and_fields_within_each_other_are_told(tmp_path: Path) -> None:
    space = {"recpie.epochs": [1, 2], "recipe.augmentation": [{"kind": "none"}], "recipe.augmentation.kind": ["mixup"]}
    told = mistakes(written(tmp_path, space=space, trials=1))
    assert "did you mean `recipe`?" in told
    assert "space.recipe.augmentation.kind: recipe.augmentation varies it too" in told
    assert "space: " in mistakes(written(tmp_path, space={}))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"method": "grid", "trials": 1}, "the grid has 2 points"),
        ({"method": "grid", "trials": None, "space": {"recipe.learning_rate": {"uniform": [0.1, 0.2]}}}, "are ranges"),
        ({"trials": 3}, "the space has 2 points"),
        ({"trials": None}, "trials: how many"),
    ],
)
def test_trials_must_fit_the_space(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    assert told in mistakes(written(tmp_path, **changes))


def test_overrides_are_the_searchs_own_or_its_studys(tmp_path: Path) -> None:
    search = read_search(written(tmp_path), ["trials=1", "data.root=there", "asha.grace_epochs=2", "seeds=[7]"])
    assert search.total == 1
    assert search.asha is not None
    assert search.asha.grace_epochs == 2
    study = make_template(search, tmp_path / "search.yaml").study_of({})
    assert (study.data.root, study.seeds) == (("there",), (7,))
    assert "not of the form" in mistakes(written(tmp_path), "trials")


def test_a_missing_file_names_those_that_exist(tmp_path: Path) -> None:
    assert "no search file" in mistakes(tmp_path / "nowhere.yaml")


def study_of(folder: Path, point: dict[str, Any], **changes: object) -> Any:
    path = written(folder, **changes)
    return make_template(read_search(path), path).study_of(point)


def test_a_point_is_an_ordinary_study_of_one_group(tmp_path: Path) -> None:
    point = {"recipe.learning_rate": 1e-5, "recipe.branches.1.tmn": False, "backend.clusters": 3}
    study = study_of(tmp_path, point)
    plain = tmp_path / "study.yaml"
    plain.write_text(yaml.safe_dump(STUDY))
    expected = load_study(plain, ["groups.plain.learning_rate=0.00001", "groups.plain.branches.1.tmn=false"])
    assert study.groups == {"plain": expected.groups["plain"]}  # so its members have the same hash
    assert (study.name, list(study.systems), study.core_set) == ("hunt", ["plain"], None)
    assert study.systems["plain"].published == {}
    assert study.backend.clusters == 3
    assert study_of(tmp_path, {}, group="ae", space={"recipe.epochs": [1, 2]}).score_of("ae") == "mahalanobis"


def test_recipe_means_the_searched_group_whatever_it_sets_itself(tmp_path: Path) -> None:
    point = {"recipe.learning_rate": 0.5, "recipe.branches.0.tmn": False, "recipe.clip_seconds": 9.0}
    study = study_of(tmp_path, point, group="own")
    recipe = study.groups["own"]
    assert isinstance(recipe, ExtractorRecipe)
    assert (recipe.learning_rate, recipe.clip_seconds) == (0.5, 9.0)
    assert [branch.model_dump() for branch in recipe.branches] == [{"kind": "stft", "n_fft": 512, "tmn": False}]
    assert study.pseudo_labels.encoder.clip_seconds == 9.0  # fields that refer to it follow


def test_a_choice_may_set_several_fields_at_once(tmp_path: Path) -> None:
    recipe = study_of(tmp_path, {"recipe": {"epochs": 9, "checkpoints": [8, 9]}}).groups["plain"]
    assert (recipe.epochs, recipe.checkpoints) == (9, (8, 9))


def test_values_that_make_no_study_are_told_before_anything_starts(tmp_path: Path) -> None:
    space = {"recipe.learnin_rate": [1, 2], "recipe.augmentation.kind": ["mixup", "cutmixup"], "recipe.epochs": [2, 4]}
    path = written(tmp_path, space=space, method="grid", trials=None)
    search = read_search(path)
    template = make_template(search, path)
    points: list[dict[str, Any]] = [
        {"recipe.learnin_rate": 1},
        {"recipe.augmentation.kind": "cutmixup"},
        {"recipe.epochs": 2},
    ]
    with pytest.raises(ConfigError) as caught:
        check_points(template, points, path)
    for part in ("did you mean `learning_rate`?", "did you mean `cutmix`?", "checkpoints [4] lie outside epochs 1..2"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"group": "plane"}, "'plane' is no group of"),
        ({"name": "base"}, "folder of its own"),
        ({"group": "ae", "metric": "label_free"}, "judges embeddings"),
        ({"group": "ae", "space": {"backend.clusters": [1, 2]}}, "group ae does not use it"),
        ({"space": {"pseudo_labels.clusters": [1, 2]}}, "group plain does not use it"),
        ({"study": "nowhere.yaml"}, "no study file"),
        ({"study": {**STUDY, "seeds": "many"}}, "seeds: "),
        ({"overrides": {"recipe": {"epoch": 3}}}, "did you mean `epochs`?"),
    ],
)
def test_what_cannot_be_searched_is_told(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    path = written(tmp_path, **changes)
    with pytest.raises(ConfigError) as caught:
        make_template(read_search(path), path)
    assert told in str(caught.value)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_search_is_valid_and_its_header_tells_what_it_costs(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    search = read_search(path)
    assert search.name == path.stem
    assert len(check_points(make_template(search, path), listed_points(search), path)) == search.total
    header = path.read_text().split("\nname:")[0]
    assert all(f"\n# {word} " in header for word in ("searches", "metric", "cost", "command"))
