"""Rows side by side: figures from the files of a study, the best in bold, published beside, and paired tests."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from models.metrics import official_score, section_figures
from orchestrator.compare import as_columns, as_csv, as_markdown, as_table, best_cells, compare, header, notes
from orchestrator.config import Study
from orchestrator.errors import DataError
from orchestrator.loading import study_yaml
from orchestrator.storage import Store

MACHINES = ("fan", "pump")
ANOMALY = np.array([False, True] * 20)
TARGET = np.repeat([False, True], 20)


def write_study(folder: Path, name: str = "s", seed: int = 0, shift: dict[str, float] | None = None) -> Path:
    """Rows a and b, anomalies `shift` louder; the pump has no attributes."""
    shift = shift or {"a": 0.5, "b": 3.0}
    systems = {row: {"groups": ["g"], "title": row.upper(), "id": "④" if row == "b" else ""} for row in shift}
    published = {"a": {"official": 64.42, "fan": 57.29}}
    fields = {"name": name, "data": {"root": "d"}, "seeds": 2, "groups": {"g": {}}}
    systems["a"]["published"] = published["a"]
    study = Study.model_validate({**fields, "systems": systems})
    store = Store.at(folder / name)
    store.write("study.yaml", study_yaml(study).encode())
    attributes = zip(MACHINES, ("x", "noAttribute"), strict=True)
    clips = [{"machine": m, "split": "train", "problem": "", "attribute": a} for m, a in attributes]
    store.write_table("clips.parquet", pa.Table.from_pylist(clips))
    rng = np.random.default_rng(seed)
    for row, louder in shift.items():
        store.child("systems", row).write_table("test_scores.parquet", test_scores(rng, louder))
    return folder / name


def test_scores(rng: np.random.Generator, louder: float) -> pa.Table:
    tables = []
    for machine in MACHINES:
        scores = rng.normal(size=(3, 40)) + louder * ANOMALY
        columns = {
            "machine": [machine] * 40,
            "section": ["00"] * 40,
            "file_name": [f"{i:04d}.wav" for i in range(40)],
            "score": scores.mean(axis=0),
            "decision": np.zeros(40, np.int64),
            "is_anomaly": ANOMALY,
            "is_target": TARGET,
            "seed_0": scores[0],
            "seed_1": scores[1],
        }
        tables.append(pa.table(columns))
    return pa.concat_tables(tables)


test_scores.__test__ = False  # type: ignore[attr-defined]


def test_figures_are_those_of_the_clips(tmp_path: Path) -> None:
    folder = write_study(tmp_path)
    found = compare([folder])
    for row in found.rows:
        table = Store.at(folder).child("systems", row.name).read_table("test_scores.parquet")
        for column, expected in (("score", [row.official]), ("seed_0", row.seeds[:1]), ("seed_1", row.seeds[1:])):
            parts = table[column].to_numpy().reshape(2, 40)
            figures = [section_figures(ANOMALY, TARGET, part) for part in parts]
            assert [100 * (official_score(figures) or 0)] == pytest.approx(expected)
            if column == "score":
                assert list(row.machines.values()) == pytest.approx([100 * (f.hmean or 0) for f in figures])
    mean, std = np.mean(found.rows[0].seeds), np.std(found.rows[0].seeds, ddof=1)
    assert found.rows[0].spread() == f"{mean:.2f} ± {std:.2f}"


def test_the_table_stars_bolds_and_brackets(tmp_path: Path) -> None:
    found = compare([write_study(tmp_path)])
    assert header(found) == ["id", "row", "fan", "pump*", "official", "seeds mean ± std", "published"]
    assert best_cells(found) == {(1, 2), (1, 3), (1, 4)}  # row b everywhere
    text = as_markdown(found)
    first, second = text.splitlines()[2:4]
    assert "(57.29)" in first
    assert first.split("|")[-2].strip() == "64.42"
    assert second.count("**") == 6
    assert "no attributes were released" in "\n".join(notes(found))
    assert as_csv(found).splitlines()[0].startswith("id,row,fan,pump*,official")
    assert as_columns(found)["row"] == ["A", "B"]
    assert as_table(found).row_count == 2


def test_a_row_is_tested_against_another_on_the_same_clips(tmp_path: Path) -> None:
    found = compare([write_study(tmp_path)], against="a", rounds=300)
    assert list(found.bootstraps) == [1]
    better = found.bootstraps[1]
    assert better.difference == pytest.approx((found.rows[1].official - found.rows[0].official) / 100)
    assert 0 < better.low < better.difference < better.high
    assert better.p_value < 0.02
    assert as_columns(found)["p"] == ["", f"{better.p_value:.3f}"]
    assert compare([tmp_path / "s"], against="s/b", rounds=300).bootstraps[0].difference == pytest.approx(
        -better.difference
    )


def test_several_studies_are_paired_by_file_name(tmp_path: Path) -> None:
    folders = [write_study(tmp_path, "one"), write_study(tmp_path, "two", seed=1)]
    place = Store.at(folders[1]).child("systems", "a")
    place.write_table("test_scores.parquet", place.read_table("test_scores.parquet").take(np.arange(80)[::-1]))
    found = compare(folders, against="one/a", rounds=100)
    assert [row.study for row in found.rows] == ["one", "one", "two", "two"]
    assert set(found.bootstraps) == {1, 2, 3}
    assert as_columns(found)["study"] == ["one", "one", "two", "two"]


def test_what_cannot_be_compared_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no study\.yaml there"):
        compare([tmp_path])
    folder = write_study(tmp_path)
    with pytest.raises(DataError, match="--against c: no such row; there are s/a, s/b"):
        compare([folder], against="c")
    other = write_study(tmp_path, "other")
    place = Store.at(other).child("systems", "a")
    place.write_table("test_scores.parquet", place.read_table("test_scores.parquet").slice(1))
    with pytest.raises(DataError, match="have other test clips: nothing to pair"):
        compare([folder, other], against="s/a")
    (folder / "systems" / "b" / "test_scores.parquet").unlink()
    with pytest.raises(DataError, match="row b has no results yet; run `asd run`"):
        compare([folder])
