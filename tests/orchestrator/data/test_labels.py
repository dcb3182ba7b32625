"""Label sets, on the real names of DCASE 2024 and in small."""

import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from orchestrator.data.clips import CLIP_SCHEMA
from orchestrator.data.dcase import parse_name
from orchestrator.data.labels import LabelSets, label_sets
from orchestrator.errors import DataError


def table_from_names(names: list[tuple[str, str, str]]) -> pa.Table:
    """A clip table from (machine, split, file name) alone."""
    rows = []
    for machine, split, file_name in names:
        name = parse_name(file_name, split)
        rows.append(
            dict.fromkeys(CLIP_SCHEMA.names)
            | vars(name)
            | {"machine": machine, "clip_id": f"{machine}/{file_name}", "problem": ""}
        )
    return pa.Table.from_pylist(rows, schema=CLIP_SCHEMA)


SMALL = [
    ("fan", "train", "section_00_source_train_normal_0000_n_B.wav"),
    ("fan", "train", "section_00_source_train_normal_0001_n_A.wav"),
    ("fan", "train", "section_00_target_train_normal_0000_n_A.wav"),
    ("fan", "train", "section_01_source_train_normal_0000_n_A.wav"),
    ("fan", "train", "section_00_source_train_normal_0002_n_B.wav"),
    ("fan", "test", "section_00_source_test_normal_0000_n_X.wav"),
]


@pytest.fixture(scope="module")
def golden() -> pa.Table:
    root = next(parent for parent in Path(__file__).resolve().parents if (parent / "pyproject.toml").exists())
    path = root.parent / "shared/golden/dcase2024_file_names.csv"
    if not path.exists():
        pytest.skip("needs the list of real names in ../shared/golden")
    with open(path) as file:
        return table_from_names([(row["machine"], row["split"], row["file_name"]) for row in csv.DictReader(file)])


def train(names: list[tuple[str, str, str]]) -> pa.Table:
    return table_from_names([name for name in names if name[1] == "train"])


def test_classes_are_sorted_and_spelled_out():
    labels = label_sets(train(SMALL))
    assert labels.classes == (
        "fan|00|n_A|source",
        "fan|00|n_A|target",
        "fan|00|n_B|source",
        "fan|01|n_A|source",
    )
    assert labels.matrix().dtype == bool
    assert [np.flatnonzero(row).tolist() for row in labels.matrix()] == [[2], [0], [1], [3], [2]]


def test_order_of_rows_does_not_matter_and_digests_tell_label_sets_apart():
    forward, backward = (label_sets(train(names)) for names in (SMALL, SMALL[::-1]))
    assert forward.classes == backward.classes
    assert forward.digest == backward.digest
    assert label_sets(train(SMALL[:2])).digest != forward.digest
    assert LabelSets(("1", "2"), (("a",), ("b",))).digest != LabelSets(("1", "2"), (("b",), ("a",))).digest
    assert LabelSets(("1",), (("a", "b"),)).digest != LabelSets(("1",), (("a",),)).digest


def test_no_training_clip_is_an_error():
    with pytest.raises(DataError, match="no usable training clip"):
        label_sets(train(SMALL[5:]))


def test_pseudo_labels_replace_the_attribute_and_keep_the_domain():
    first, _, third, *_ = (f"fan/{name}" for _, _, name in SMALL)
    labels = label_sets(train(SMALL[:4]), pseudo={first: [3], third: [0, 12]})
    assert labels.names == (
        ("fan|00|pseudo_03|source",),
        ("fan|00|n_A|source",),
        ("fan|00|pseudo_00|target", "fan|00|pseudo_12|target"),
        ("fan|01|n_A|source",),
    )
    assert labels.matrix().sum(axis=1).tolist() == [1, 1, 2, 1]
    assert label_sets(train(SMALL[:4]), pseudo={}).digest == label_sets(train(SMALL[:4])).digest


def test_external_clips_follow_as_classes_of_their_own():
    external = pa.table({"clip_id": ["external/a", "external/b"], "mid": ["/m/1", "/m/1"], "machine": ["fan", "pump"]})
    labels = label_sets(train(SMALL[:2]), external=external)
    assert labels.clip_ids[2:] == ("external/a", "external/b")
    assert labels.names[2:] == (("external||/m/1+fan|",), ("external||/m/1+pump|",))
    nothing = label_sets(train(SMALL[:2]), external=external.slice(0, 0))
    assert nothing.digest == label_sets(train(SMALL[:2])).digest  # an empty core-set is no core-set


def test_dcase_2024_has_148_classes_of_1_to_990_clips(golden):
    labels = label_sets(golden.filter([split == "train" for split in golden["split"].to_pylist()]))
    assert len(labels.classes) == 148
    assert sum(name.endswith("|source") for name in labels.classes) == 94
    sizes = labels.matrix().sum(axis=0)
    assert (sizes.min(), sizes.max()) == (1, 990)
    assert max(sizes[i] for i, name in enumerate(labels.classes) if name.endswith("|target")) <= 10
