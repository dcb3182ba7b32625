"""Study files: defaults, overrides of every kind, all mistakes at once with the nearest key, never a traceback."""

from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.config import Study
from orchestrator.errors import ConfigError
from orchestrator.loading import load_study, read_study, study_yaml
from orchestrator.recipes import ExtractorRecipe
from orchestrator.storage import Store

ROOT = Path(__file__).resolve().parents[2]
BASE = """
name: demo
data: {root: data/demo}
seeds: 2
recipe:
  clip_seconds: 4.5
  epochs: 3
  checkpoints: [2, 3]
  branches: [{kind: dft}, {kind: stft, n_fft: 4096}]
  augmentation: {kind: mixup, probability: 0.3}
groups:
  g: {}
  h: {epochs: 4, augmentation: {kind: cutmix}}
systems:
  s: {groups: [g, h]}
"""
NO_RECIPE = "name: n\ndata: {root: d}\ngroups: {g: {}}\nsystems: {s: {groups: [g]}}\n"
any_file = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, derandomize=True)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(BASE)
    return path


def mistakes(file: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_study(file, overrides)
    return str(caught.value)


def test_groups_take_the_recipe_and_change_what_they_name(file: Path) -> None:
    groups = load_study(file).groups
    assert [groups[name].epochs for name in "gh"] == [3, 4]
    assert groups["h"].checkpoints == (2, 3)
    assert (groups["h"].augmentation.kind, groups["h"].augmentation.probability) == ("cutmix", 0.3)
    assert [branch.kind for branch in groups["g"].branches] == ["dft", "stft"]


def test_a_list_of_a_group_replaces_the_recipes_list(file: Path) -> None:
    file.write_text(BASE.replace("g: {}", "g: {branches: [{kind: stft, n_fft: 128}], checkpoints: [1]}"))
    group = load_study(file).groups["g"]
    assert [branch.kind for branch in group.branches] == ["stft"]
    assert group.checkpoints == (1,)


def test_an_empty_group_is_the_recipe_as_it_stands(file: Path) -> None:
    file.write_text(BASE.replace("g: {}", "g:"))
    assert load_study(file).groups["g"].epochs == 3


@pytest.mark.parametrize(
    ("override", "seeds"),
    [("seeds=[3,4]", (3, 4)), ("seeds=2", (0, 1)), ("seeds=1", (0,)), ("seeds.1=7", (0, 7)), ("seeds=[9]", (9,))],
)
def test_seeds_are_a_list_or_a_number(file: Path, override: str, seeds: tuple[int, ...]) -> None:
    file.write_text(BASE.replace("seeds: 2", "seeds: [0, 1]"))
    assert load_study(file, [override]).seeds == seeds


@pytest.mark.parametrize("text", [BASE, NO_RECIPE, BASE.replace("g: {}", "g: {branches: [{kind: dft}, {kind: dft}]}")])
def test_an_item_of_a_list_is_changed_wherever_the_list_is_written(file: Path, text: str) -> None:
    file.write_text(text)
    override = "groups.g.branches.1={kind: stft, n_fft: 256, tmn: false}"
    branches = load_study(file, [override]).groups["g"].branches
    assert branches[0].kind == "dft"
    assert branches[1].model_dump() == {"kind": "stft", "n_fft": 256, "tmn": False}


def test_an_item_override_of_one_group_leaves_the_others_alone(file: Path) -> None:
    study = load_study(file, ["groups.g.branches.1.tmn=false"])
    assert [study.groups[name].branches[1].as_branch().tmn for name in "gh"] == [False, True]
    both = load_study(file, ["recipe.branches.1.tmn=false"])
    assert [both.groups[name].branches[1].as_branch().tmn for name in "gh"] == [False, False]
    file.write_text(NO_RECIPE)
    default = load_study(file, ["recipe.branches.2.tmn=false"]).groups["g"].branches
    assert [branch.as_branch().tmn for branch in default[1:]] == [True, False]


def test_overrides_reach_everything(file: Path) -> None:
    changed = [
        "data.root=[a, b]",
        "name=other",
        "recipe.epochs=5",
        "groups.g.epochs=6",
        "groups.new.batch_size=8",
        "systems.s.groups=[new]",
        "cluster={slots: 2, gpus_per_slot: 0.5}",
        "tracking.uri=http://host:5000/?a=b",
        "storage=${name}/out",
        "recipe.augmentation.probability=null",
    ]
    study = load_study(file, changed)
    assert study.data.root == ("a", "b")
    assert (study.name, study.storage) == ("other", "other/out")
    assert [study.groups[name].epochs for name in ("g", "h", "new")] == [6, 4, 5]
    assert study.systems["s"].groups == ("new",)
    assert (study.cluster.slots, study.cluster.gpus_per_slot) == (2, 0.5)
    assert study.tracking.uri == "http://host:5000/?a=b"
    assert study.groups["g"].augmentation.chance() == 0.5


def test_the_last_override_of_a_key_wins(file: Path) -> None:
    assert load_study(file, ["recipe.epochs=5", "recipe.epochs=6"]).groups["g"].epochs == 6


@pytest.mark.parametrize(
    "override", ["recipe.epochs", "=3", "seeds={a", "groups.g.branches.7.tmn=true", "name=2024-13-45", "seeds.9=1"]
)
def test_an_override_that_cannot_be_applied_is_quoted(file: Path, override: str) -> None:
    if override.startswith("seeds.9"):
        file.write_text(BASE.replace("seeds: 2", "seeds: [0]"))
    assert repr(override) in mistakes(file, override)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("bakend.clusters=3", "bakend: unknown key; did you mean `backend`?"),
        ("backend.cluster=3", "backend.cluster: unknown key; did you mean `clusters`?"),
        ("recipe.learnig_rate=1", "recipe.learnig_rate: unknown key; did you mean `learning_rate`?"),
        ("groups.g.epoch=1", "groups.g.epoch: unknown key; did you mean `epochs`?"),
        ("groups.g.branches.1.tnm=true", "groups.g.branches.1.stft.tnm: unknown key; did you mean `tmn`?"),
        ("groups.g.augmentation.knid=none", "groups.g.augmentation.knid: unknown key; did you mean `kind`?"),
        ("systems.s.group=[g]", "systems.s.group: unknown key; did you mean `groups`?"),
        ("groups.g.augmentation.kind=mixip", "did you mean `mixup`?"),
        (
            "groups.g.branches.1.kind=stfft",
            "groups.g.branches.1.kind: 'stfft' is no kind of this; did you mean `stft`? Valid: 'dft', 'stft'",
        ),
        ("zzzz=3", "zzzz: unknown key. Valid: name, storage, data"),
        ("seeds=0", "seeds: Input should be a valid list (given: 0); meant is: a list, or a number N"),
        ("recipe=3", "recipe: must be a mapping of recipe fields (given: 3)"),
        ("groups=3", "groups: Input should be a valid dictionary (given: 3)"),
        ("recipe.branches=3", "recipe.branches: Input should be a valid list (given: 3)"),
        ("groups.g.branches={a: 1}", "groups.g.branches: Input should be a valid list"),
        ("name=${nope}", "Interpolation key 'nope' not found"),
    ],
)
def test_a_mistake_names_its_place_and_the_nearest_valid_thing(file: Path, override: str, told: str) -> None:
    assert told in mistakes(file, override)


def test_a_missing_field_says_what_it_means(file: Path) -> None:
    file.write_text(BASE.replace("{root: data/demo}", "{}"))
    assert "data.root: this field is required; meant is: folder(s) of <machine>/train" in mistakes(file)


def test_all_mistakes_are_told_at_once(file: Path) -> None:
    said = mistakes(
        file, "recipe.epochz=1", "groups.g.batch_size=1", "backend.n_init=0", "nam=x", "systems.s.published=101"
    )
    assert "5 mistake(s)" in said
    for place in ("recipe.epochz", "groups.g.batch_size", "backend.n_init", "nam", "systems.s.published.official"):
        assert f"  - {place}: " in said


def test_a_wrong_default_is_told_once_and_not_for_every_group(file: Path) -> None:
    said = mistakes(file, "recipe.batch_size=many")
    assert "1 mistake(s)" in said
    assert "  - recipe.batch_size: " in said


def test_a_list_with_a_wrong_item_is_not_also_called_too_short(file: Path) -> None:
    assert "1 mistake(s)" in mistakes(file, "groups.g.branches=[{kind: 1}]")


def test_a_missing_file_lists_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "configs" / "studies"
    folder.mkdir(parents=True)
    with pytest.raises(ConfigError, match="Studies here: none"):
        load_study("configs/studies/demo.yaml")
    (folder / "demo.yaml").write_text(BASE)
    with pytest.raises(ConfigError, match=r"did you mean configs/studies/demo\.yaml\?"):
        load_study("configs/studies/dem.yaml")
    with pytest.raises(ConfigError, match="no study file configs"):
        load_study("configs/studies")


ODD = [
    b"",
    b"~",
    b"3",
    b"[1, 2]",
    b"a: b: c",
    b"\t",
    b"a: 2001-99-99",
    b"null: 3",
    b"1: 2",
    b"? [1]\n: 2",
    b"a: &a [*a]",
]
ODD += [
    b"\xff\xfe\x00",
    b"a: \x00",
    b"---\na: 1\n---\nb: 2",
    b"a: 1\na: 2",
    b"a: ${a}",
    b"a: '${b'",
    b"groups: {1: {2: 3}}",
]
ODD += [b"x: !!python/object:os.system 1", b"a: !!set {x}", b"a: " + b"[" * 2000, b"a: " + b"[" * 2000 + b"]" * 2000]
ODD += [b"groups: {g: {branches: [3]}}\nrecipe: {branches: {a: 1}}", b"a: " + b"9" * 5000]


@pytest.mark.parametrize("text", ODD)
def test_odd_files_are_config_errors(file: Path, text: bytes) -> None:
    file.write_bytes(text)
    with pytest.raises(ConfigError, match=r"study\.yaml"):
        load_study(file)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates()
FIELDS = [*Study.model_fields, *ExtractorRecipe.model_fields, "recipe", "kind", "g", "h", "s", "root", "n_fft", "tmn"]
names = st.sampled_from(FIELDS) | st.text(max_size=5)
trees = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4), max_leaves=12
)


def never_crashes(file: Path, *overrides: str) -> None:
    with suppress(ConfigError):
        assert isinstance(load_study(file, overrides), Study)


@any_file
@given(content=st.dictionaries(names, trees, max_size=5), keep=st.booleans())
def test_garbage_in_a_study_is_a_config_error_or_a_study(file: Path, content: dict[str, object], keep: bool) -> None:
    whole = {**(yaml.safe_load(BASE) if keep else {}), **content}
    file.write_text(yaml.safe_dump(whole, allow_unicode=True), encoding="utf-8")
    never_crashes(file)


@any_file
@given(content=st.binary(max_size=60) | st.text("{}[]:,-&*!|>'\"#%@` \n?ab1$.~", max_size=40).map(str.encode))
def test_garbage_instead_of_yaml_is_a_config_error_or_a_study(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    never_crashes(file)


@any_file
@given(
    path=st.lists(names | st.integers(-2, 9).map(str), min_size=1, max_size=5),
    value=trees.map(repr) | st.text(max_size=9),
)
def test_garbage_in_an_override_is_a_config_error_or_a_study(file: Path, path: list[str], value: str) -> None:
    file.write_text(BASE)
    never_crashes(file, f"{'.'.join(path)}={value}")


recipes = st.fixed_dictionaries(
    {},
    optional={
        "clip_seconds": st.floats(5, 120),
        "embedding_dim": st.integers(2, 512),
        "auxiliary_loss": st.sampled_from(["subspace", "featex", "none"]),
        "augmentation": st.sampled_from([{"kind": "none"}, {"kind": "cutmix", "probability": 0.1}]),
        "learning_rate": st.floats(1e-9, 1),
        "batch_size": st.integers(2, 128),
        "precision": st.sampled_from(["bfloat16", "float32"]),
    },
)


@any_file
@given(
    recipe=recipes, seeds=st.sets(st.integers(0, 2**31), min_size=1, max_size=4), root=st.text(min_size=1, max_size=9)
)
def test_what_is_written_is_read_back_the_same(
    file: Path, recipe: dict[str, object], seeds: set[int], root: str
) -> None:
    content = {"name": "n", "data": {"root": [root]}, "seeds": sorted(seeds), "groups": {"a": recipe, "b.c": {}}}
    study = Study.model_validate({**content, "systems": {"s": {"groups": ["a", "b.c"], "published": 64.42}}})
    file.write_text(study_yaml(study), encoding="utf-8")
    assert load_study(file) == study


@pytest.mark.parametrize("name", sorted(p.name for p in (ROOT / "configs" / "studies").glob("*.yaml")))
def test_shipped_studies_load_and_survive_a_round_trip(name: str, tmp_path: Path) -> None:
    study = load_study(ROOT / "configs" / "studies" / name)
    (tmp_path / "again.yaml").write_text(study_yaml(study), encoding="utf-8")
    assert load_study(tmp_path / "again.yaml") == study


def test_a_study_is_read_where_it_lies_now(tmp_path):
    """Its MLflow database lies beside it, wherever it was run from and moved to."""
    made = load_study(ROOT / "configs/studies/demo.yaml", ["storage=results"])
    moved = Store.at(tmp_path / "elsewhere/demo")
    moved.write("study.yaml", study_yaml(made).encode())
    assert read_study(moved) == made.model_copy(update={"storage": str(tmp_path / "elsewhere")})
