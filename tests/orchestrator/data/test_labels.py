"""The class vocabulary, on the real names of DCASE 2024 and in small."""

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from orchestrator.data.clips import CLIP_SCHEMA
from orchestrator.data.dcase import parse_name
from orchestrator.data.labels import Vocabulary, build_vocabulary
from orchestrator.errors import DataError


def table_from_names(names: list[tuple[str, str, str]]) -> pa.Table:
    """A clip table from (machine, split, file name) alone."""
    rows = []
    for machine, split, file_name in names:
        name = parse_name(file_name, split)
        rows.append(dict.fromkeys(CLIP_SCHEMA.names) | vars(name) | {"machine": machine, "problem": ""})
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


def test_classes_are_sorted_and_spelled_out():
    vocabulary = build_vocabulary(table_from_names(SMALL))
    assert vocabulary.class_names == (
        "fan|00|n_A|source",
        "fan|00|n_A|target",
        "fan|00|n_B|source",
        "fan|01|n_A|source",
    )
    indices = vocabulary.indices(table_from_names(SMALL[:5]))
    assert indices.dtype == np.int64
    assert indices.tolist() == [2, 0, 1, 3, 2]


def test_order_of_rows_does_not_matter_and_digests_tell_vocabularies_apart():
    forward, backward = (build_vocabulary(table_from_names(names)) for names in (SMALL, SMALL[::-1]))
    assert forward == backward
    assert forward.digest == backward.digest
    assert build_vocabulary(table_from_names(SMALL[:2])).digest != forward.digest
    assert Vocabulary(("a|b", "c")).digest != Vocabulary(("a", "b|c")).digest


def test_bad_training_clips_and_test_clips_add_no_class():
    table = table_from_names(SMALL)
    problems = pa.array(["empty file", "", "", "", "empty file", ""])
    table = table.set_column(CLIP_SCHEMA.get_field_index("problem"), "problem", problems)
    assert "fan|00|n_B|source" not in build_vocabulary(table).class_names
    with pytest.raises(DataError, match="no usable training clip"):
        build_vocabulary(table_from_names(SMALL[5:]))


def test_an_unknown_class_is_named():
    with pytest.raises(DataError, match=r"1 classes are not among the 4 .*fan\|00\|n_X\|source"):
        build_vocabulary(table_from_names(SMALL)).indices(table_from_names(SMALL))


def test_dcase_2024_has_148_classes_of_1_to_990_clips(golden):
    vocabulary = build_vocabulary(golden)
    assert len(vocabulary) == 148
    assert sum(name.endswith("|source") for name in vocabulary.class_names) == 94
    train = golden.filter([split == "train" for split in golden["split"].to_pylist()])
    indices = vocabulary.indices(train)
    sizes = Counter(indices.tolist())
    assert (min(sizes.values()), max(sizes.values()), len(sizes)) == (1, 990, 148)
    targets = [sizes[i] for i, name in enumerate(vocabulary.class_names) if name.endswith("|target")]
    assert max(targets) <= 10
