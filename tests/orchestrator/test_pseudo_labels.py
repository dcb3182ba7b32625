"""Pseudo-labels of a machine from two encoders' spaces: sections and domains, files, and how they are judged."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from orchestrator.config import PseudoLabelConfig
from orchestrator.data.true_attributes import read_true_attributes
from orchestrator.errors import DataError
from orchestrator.members import Member
from orchestrator.pseudo_labels import (
    PSEUDO_SCHEMA,
    TABLE,
    agreement_metrics,
    make_pseudo_labels,
    pseudo_labels_key,
    read_pseudo_labels,
)
from orchestrator.recipes import EncoderRecipe
from orchestrator.scoring import EMBEDDING_SCHEMA, EMBEDDINGS
from orchestrator.storage import Store

PAIR = tuple(Member("attribute-encoder", seed, EncoderRecipe(), "", "data", "fan") for seed in (0, 1))
ENCODERS: Any = {"fan": PAIR}


def clips(sections: str = "00") -> pa.Table:
    """Six training clips a section, of two attributes, the last of each in the target domain; and a test clip."""
    rows = []
    for section in sections.split():
        for i in range(7):
            name = f"section_{section}_{i}.wav"
            split, domain = ("test" if i == 6 else "train"), ("target" if i in (2, 5) else "source")
            rows.append(
                {"clip_id": f"fan/{name}", "machine": "fan", "section": section, "file_name": name}
                | {"split": split, "domain": domain}
            )
    return pa.Table.from_pylist(rows)


def keep_embeddings(study: Store, table: pa.Table, spread: float = 0.01) -> None:
    """Two far groups of three in both encoders' spaces."""
    rng = np.random.default_rng(0)
    train = [row["clip_id"] for row in table.to_pylist() if row["split"] == "train"]
    for member in PAIR:
        centre = np.repeat(np.tile([[0.0, 5.0], [5.0, 0.0]], (len(train) // 6, 1)), 3, axis=0)
        vectors = (centre + spread * rng.normal(size=centre.shape)).astype(np.float32)
        shuffled = rng.permutation(len(train))  # the order of the file must not matter
        columns = {"clip_id": [train[i] for i in shuffled], "embedding": [vectors[i] for i in shuffled]}
        member.folder(study).write_table(EMBEDDINGS, pa.table(columns, schema=EMBEDDING_SCHEMA))


def make(tmp_path: Path, table: pa.Table, **config: Any) -> tuple[dict[str, list[int]], list[Any], Store]:
    study, folder = Store.at(tmp_path), Store.at(tmp_path / "labels")
    keep_embeddings(study, table)
    asked = PseudoLabelConfig.model_validate({"clusters": 2, **config})
    judged = make_pseudo_labels(asked, table, ENCODERS, study, folder)
    labels = read_pseudo_labels(folder)
    assert labels is not None
    assert folder.read_table(TABLE).schema == PSEUDO_SCHEMA
    return labels, judged, folder


def test_two_groups_become_two_labels_of_training_clips_alone(tmp_path: Path) -> None:
    labels, (judged,), folder = make(tmp_path, clips())
    assert len(labels) == 6
    sets = [tuple(labels[f"fan/section_00_{i}.wav"]) for i in range(6)]
    assert len(set(sets[:3])) == len(set(sets[3:])) == 1
    assert sorted({sets[0], sets[3]}) == [(0,), (1,)]
    assert (judged.place, judged.clips, judged.clusters, judged.label_sets) == ("fan_section_00", 6, 2, 2)
    assert judged.agreement is None
    assert folder.read("fan_section_00.png").startswith(b"\x89PNG")
    assert agreement_metrics(folder) == {"fan_section_00/clusters": 2, "fan_section_00/label_sets": 2}


def test_sections_are_clustered_apart(tmp_path: Path) -> None:
    labels, judged, folder = make(tmp_path, clips("00 01"))
    assert len(labels) == 12
    assert [j.place for j in judged] == ["fan_section_00", "fan_section_01"]
    assert folder.exists("fan_section_01.png")


def test_domains_may_be_clustered_apart(tmp_path: Path) -> None:
    labels, (judged,), _ = make(tmp_path, clips(), domains="apart", clusters=1)
    assert set(map(tuple, labels.values())) == {(0,)}  # one cluster a domain, each labelled 0: the class has the domain
    assert judged.label_sets == 1
    two, _, _ = make(tmp_path / "two", clips(), domains="apart")
    for pair in ((2, 5), (0, 3)):
        first, second = (two[f"fan/section_00_{i}.wav"] for i in pair)
        assert first != second


def test_the_truth_judges_and_is_not_learned(tmp_path: Path) -> None:
    truth = tmp_path / "truth.csv"
    lines = [f"fan,section_00_{i}.flac,{'AB'[i // 3]}" for i in range(6)]  # another suffix is the same clip
    truth.write_text("\n".join(["machine,file_name,true_attribute", *lines]))
    told, (judged,), folder = make(tmp_path / "a", clips(), truth=str(truth))
    assert judged.agreement is not None
    assert (judged.agreement.ari, judged.agreement.nmi) == pytest.approx((1, 1))
    assert agreement_metrics(folder)["fan_section_00/ari"] == 1
    assert make(tmp_path / "b", clips())[0] == told
    truth.write_text("\n".join(["machine,file_name,true_attribute", *lines[:5]]))  # one clip's truth is not known
    assert make(tmp_path / "c", clips(), truth=str(truth))[1][0].agreement is None


def test_a_mixture_takes_the_same_place(tmp_path: Path) -> None:
    labels, (judged,), _ = make(tmp_path, clips(), method="mixture")
    assert all(len(found) == 1 for found in labels.values())
    assert judged.clips == 6


def test_the_key_knows_encoders_and_settings_and_not_the_truth() -> None:
    plain = PseudoLabelConfig()
    key = pseudo_labels_key(plain, ENCODERS)
    assert pseudo_labels_key(plain.model_copy(update={"truth": "x.csv"}), ENCODERS) == key
    assert pseudo_labels_key(plain.model_copy(update={"threshold": 0.5}), ENCODERS) != key
    other: Any = {"fan": (PAIR[1], PAIR[0])}
    assert pseudo_labels_key(plain, other) != key


def test_both_forms_of_a_truth_are_read(tmp_path: Path, shared: Path) -> None:
    found = read_true_attributes(shared / "golden" / "dcase2024_hidden_attributes.csv")
    assert found["ToyTrain", "section_00_source_test_normal_0036_noAttribute"] == "car_D1_spd_7_mic_1"
    mini = read_true_attributes(shared / "data" / "real_mini_true_attributes.csv")
    assert mini["ToyCar", "section_00_target_train_normal_0000_id_03"] == "id_03"
    with pytest.raises(DataError, match="no CSV"):
        read_true_attributes(tmp_path / "gone.csv")
    (tmp_path / "odd.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="needs the columns machine, file_name, true_attribute"):
        read_true_attributes(tmp_path / "odd.csv")
