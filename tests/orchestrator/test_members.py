"""A member's identity is what decides its weights, and nothing else."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.members import DONE, LAST, Member, checkpoint_name, digest, is_done, last_epoch
from orchestrator.recipes import ExtractorRecipe
from orchestrator.storage import Store

RECIPE = ExtractorRecipe.model_validate({"epochs": 2, "checkpoints": [2], "clip_seconds": 5.0})
MEMBER = Member("mixup", 3, RECIPE, "c" * 32, "d" * 32)


def changed(**fields: object) -> Member:
    return MEMBER._replace(recipe=ExtractorRecipe.model_validate(RECIPE.model_dump() | fields))


def test_the_hash_of_a_known_member_never_changes() -> None:
    """Whoever breaks this makes every trained member of every user worthless: raise SCIENCE_VERSION only on purpose."""
    assert MEMBER.hash == "f14d687e421f6c8d"


def test_a_digest_recomputed_by_hand() -> None:
    # sha256 of the text {"a":[1,2],"b":null}
    assert digest({"b": None, "a": [1, 2]}) == "f25109c4111335e4"


@pytest.mark.parametrize(
    "other",
    [
        MEMBER._replace(seed=4),
        MEMBER._replace(classes="e" * 32),
        MEMBER._replace(data="e" * 32),
        MEMBER._replace(machine="fan"),
        changed(learning_rate=2e-3),
        changed(epochs=3),
        changed(checkpoints=[1, 2]),
        changed(batch_size=63),
        changed(precision="float32"),
        changed(augmentation={"kind": "cutmix"}),
        changed(branches=[{"kind": "stft", "n_fft": 4096, "tmn": False}]),
    ],
)
def test_the_hash_depends_on_all_that_decides_the_weights(other: Member) -> None:
    assert other.hash != MEMBER.hash


def test_the_hash_does_not_depend_on_the_group() -> None:
    assert MEMBER._replace(group="another").hash == MEMBER.hash


def test_asking_for_a_core_set_that_came_out_empty_changes_nothing() -> None:
    assert changed(core_set=True, pseudo_labels=True).hash == MEMBER.hash


def test_networks_of_one_machine_each_form_a_series() -> None:
    fan, pump = (MEMBER._replace(machine=machine, data=machine * 8) for machine in ("fan", "pump"))
    assert fan.hash != pump.hash
    assert fan.series == pump.series
    assert fan._replace(seed=9).series != fan.series
    assert MEMBER.series == MEMBER.hash


def test_the_identity_is_whole_and_is_json() -> None:
    assert set(MEMBER.identity) == {"science", "recipe", "seed", "classes", "data", "machine"}
    assert set(MEMBER.identity["recipe"]) == set(ExtractorRecipe.model_fields) - {"pseudo_labels", "core_set"}
    assert json.loads(json.dumps(MEMBER.identity)) == MEMBER.identity


KEYS = st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=6)


@given(KEYS)
def test_key_order_does_not_matter(value: dict) -> None:
    assert digest(dict(reversed(value.items()))) == digest(value)
    assert re.fullmatch("[0-9a-f]{16}", digest(value))


@given(KEYS, KEYS)
def test_different_values_differ(one: dict, other: dict) -> None:
    assert (digest(one) == digest(other)) == (one == other)


def test_a_folder_that_merely_exists_means_nothing(tmp_path: Path) -> None:
    folder = MEMBER.folder(Store.at(tmp_path))
    assert Path(folder.root) == tmp_path / "members" / MEMBER.hash
    Path(folder.root).mkdir(parents=True)
    folder.write("config.json", b"{}")
    folder.write(checkpoint_name(2), b"half a run")
    assert (is_done(folder), last_epoch(folder)) == (False, 0)
    folder.write_json("progress.json", {"epoch": 7})  # without its state it promises nothing
    assert last_epoch(folder) == 0
    folder.write(LAST, b"state")
    assert (is_done(folder), last_epoch(folder)) == (False, 7)
    folder.write_json(DONE, {"history": []})
    assert is_done(folder)


def test_checkpoints_sort_by_epoch() -> None:
    assert [checkpoint_name(epoch) for epoch in (9, 14, 100)] == ["epoch_009.pt", "epoch_014.pt", "epoch_100.pt"]
