"""The factory on disk: the challenge's layout, the same bytes for the same seed, and never a foreign file touched."""

import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile as sf
from typer.testing import CliRunner

from orchestrator.data.synth import FactoryOptions, make_factory
from orchestrator.data.synth.external import CLASSES
from orchestrator.data.synth.factory import MARKER, UNFINISHED
from orchestrator.data.synth.faults import KINDS
from orchestrator.data.synth.options import strength_of
from orchestrator.errors import ConfigError, StorageError

SHARED = Path(__file__).resolve().parents[3].parent / "shared"
NAME = re.compile(r"section_00_(source|target)_(train|test)_(normal|anomaly)_(\d{4})_(\w[\w.]*)\.wav")
SMALL = {
    "machines": ("fan", "slider"),
    "train_source": 3,
    "train_target": 1,
    "test_per_condition": 2,
    "seconds": 1.0,
    "external": 13,
    "plant_faults": True,
}


def options(**changes: object) -> FactoryOptions:
    return FactoryOptions(**{**SMALL, **changes})


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def factory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "factory"
    summary = make_factory(folder, options())
    assert (summary.made, summary.clips, summary.planted) == (True, 2 * (3 + 1 + 4 * 2), len(KINDS))
    return folder


def test_names_and_sounds_are_as_the_challenge_has_them(factory: Path):
    planted = {row["file"] for row in rows(factory / "planted_faults.csv")}
    clips = [p for p in factory.rglob("*.wav") if p.relative_to(factory).as_posix() not in planted]
    assert len(clips) == 24
    for path in clips:
        found = NAME.fullmatch(path.name)
        assert found
        assert found[2] == path.parent.name
        info = sf.info(path)
        assert (info.samplerate, info.channels, info.subtype, info.frames) == (16_000, 1, "PCM_16", 16_000)


def test_train_holds_normal_sounds_only_and_counts_are_as_asked(factory: Path):
    names = [p.name for p in (factory / "fan" / "train").iterdir() if "_9" not in p.name]
    assert sorted(name[:28] for name in names) == ["section_00_source_train_norm"] * 3 + [
        "section_00_target_train_norm"
    ]


def test_attribute_tables_list_every_clip_and_hide_what_is_not_released(factory: Path):
    for machine in ("fan", "slider"):
        table = rows(factory / machine / "attributes_00.csv")
        listed = {row["file_name"] for row in table}
        present = {p.relative_to(factory).as_posix() for p in (factory / machine).rglob("*.wav")}
        assert listed == present
    assert table[0]["d1p"] == "noAttribute"
    assert table[0]["d1v"] == ""
    fan = rows(factory / "fan" / "attributes_00.csv")[0]
    assert (fan["d1p"], fan["d1v"], fan["d2p"], fan["d2v"]) == ("rpm", "1080", "bl", "5")
    assert fan["file_name"].endswith("_rpm_1080_bl_5.wav")
    assert all(p.name.endswith("_noAttribute.wav") for p in (factory / "slider").rglob("*.wav"))


def test_the_true_attributes_are_beside(factory: Path):
    table = rows(factory / "true_attributes.csv")
    assert list(table[0]) == ["machine", "split", "file_name", "true_attribute"]
    hidden = {row["true_attribute"] for row in table if row["machine"] == "slider"}
    assert "vel_400_ac_0.05" in hidden
    for row in table:
        assert (factory / row["machine"] / row["split"] / row["file_name"]).is_file()


def test_the_bytes_depend_on_the_options_alone(factory: Path, tmp_path: Path):
    make_factory(tmp_path / "again", options(), workers=3)
    assert contents(tmp_path / "again") == contents(factory)


def test_another_seed_gives_other_sounds(factory: Path, tmp_path: Path):
    make_factory(tmp_path / "other", options(seed=1, external=0, plant_faults=False))
    name = "fan/train/section_00_source_train_normal_0000_rpm_1080_bl_5.wav"
    assert (tmp_path / "other" / name).read_bytes() != (factory / name).read_bytes()


def test_a_clip_does_not_depend_on_the_others(factory: Path, tmp_path: Path):
    make_factory(tmp_path / "f", options(machines=("slider",), train_source=1, plant_faults=False, external=0))
    theirs = {k: v for k, v in contents(tmp_path / "f").items() if k.endswith(".wav")}
    assert theirs.items() <= contents(factory).items()


def test_planted_files_are_broken_as_listed(factory: Path):
    broken = {row["kind"]: factory / row["file"] for row in rows(factory / "planted_faults.csv")}
    assert set(broken) == set(KINDS)
    assert broken["zero_byte"].stat().st_size == 0
    for kind in ("zero_byte", "text"):
        with pytest.raises(sf.LibsndfileError):
            sf.read(broken[kind])
    assert np.isnan(sf.read(broken["nan"])[0]).sum() == 100
    assert not sf.read(broken["silent"])[0].any()
    assert sf.info(broken["rate_44100"]).samplerate == 44_100
    assert sf.info(broken["stereo"]).channels == 2
    promised = int.from_bytes(broken["truncated"].read_bytes()[40:44], "little")
    assert promised == 32_000 > broken["truncated"].stat().st_size


def test_external_shards_hold_readable_sounds_of_known_classes(factory: Path):
    place = factory / "external"
    assert not [p for p in place.iterdir() if p.is_dir()]
    names = {row["mid"]: row["display_name"] for row in rows(place / "class_labels_indices.csv")}
    table = [row for shard in sorted(place.glob("*.parquet")) for row in pq.read_table(shard).to_pylist()]
    assert len({row["video_id"] for row in table}) == 13
    for row in table:
        assert [names[mid] for mid in row["labels"]] == row["human_labels"]
        info = sf.info(io.BytesIO(row["audio"]["bytes"]))
        assert 2 <= info.duration <= 10.001
        assert info.samplerate in (16_000, 22_050, 44_100)
    segments = (place / "segments.csv").read_text(encoding="utf-8").splitlines()
    assert len(segments) == 3 + 13
    assert segments[3].startswith(table[0]["video_id"] + ", 0.000, ")
    assert segments[3].endswith('"')


def test_the_parquet_schema_and_classes_are_audiosets(factory: Path):
    real = sorted((SHARED / "data" / "external").glob("*.parquet"))
    if not real:
        pytest.skip("no real Parquet shards in ../shared/data/external")
    ours = pq.read_schema(next((factory / "external").glob("*.parquet")))
    assert ours.equals(pq.read_schema(real[0]))
    table = rows(SHARED / "data" / "external" / "class_labels_indices.csv")
    known = {(int(row["index"]), row["mid"], row["display_name"]) for row in table}
    assert {(c.index, c.mid, c.display_name) for c in CLASSES} <= known


def test_a_finished_factory_is_left_alone(factory: Path):
    before = {p: p.stat().st_mtime_ns for p in factory.rglob("*")}
    assert not make_factory(factory, options()).made
    assert before == {p: p.stat().st_mtime_ns for p in factory.rglob("*")}


def test_other_options_are_refused_by_name(factory: Path):
    with pytest.raises(StorageError, match="seed: there 0, asked 4"):
        make_factory(factory, options(seed=4))


def test_an_interrupted_run_is_made_good(factory: Path, tmp_path: Path):
    folder = tmp_path / "f"

    def stop(what: str, done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_factory(folder, options(), progress=stop)
    assert (folder / UNFINISHED).is_file()
    assert not (folder / MARKER).exists()
    assert make_factory(folder, options()).made
    assert contents(folder) == contents(factory)


@pytest.mark.parametrize("name", ["notes.txt", "fan/train/recording.wav"])
def test_foreign_files_are_refused_and_kept(tmp_path: Path, name: str):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(StorageError, match=re.escape(name)):
        make_factory(tmp_path, options())
    assert contents(tmp_path) == {name: b"mine"}


def test_foreign_files_beside_an_unfinished_factory_are_refused(tmp_path: Path):
    small = options(plant_faults=False, external=0, machines=("fan",), train_source=1, test_per_condition=1)
    make_factory(tmp_path, small)
    (tmp_path / MARKER).rename(tmp_path / UNFINISHED)
    (tmp_path / "fan" / "mine.wav").write_text("mine")
    with pytest.raises(StorageError, match=r"fan/mine\.wav"):
        make_factory(tmp_path, small)


def test_options_are_checked_all_at_once():
    with pytest.raises(ConfigError, match=r"did you mean 'gearbox'") as caught:
        FactoryOptions(machines=("gearbix",), seconds=0.1, train_source=0)
    assert "seconds" in str(caught.value)
    assert "train_source" in str(caught.value)
    assert [strength_of(name) for name in ("easy", "default", "hard", "4")] == [2.0, 1.0, 0.5, 0.25]
    for wrong in ("harder", "0", "nan"):
        with pytest.raises(ConfigError, match="easy, default, hard"):
            strength_of(wrong)


def test_the_command_says_what_it_made_and_what_comes_next(tmp_path: Path):
    import typer

    from jobs.synth import synth

    app = typer.Typer()
    app.command()(synth)
    counts = ["--train-source", "--train-target", "--test-per-condition", "--seconds", "--external"]
    small = ["--machines", "fan", *(word for count in counts for word in (count, "1"))]
    for said in ("made", "already there"):
        result = CliRunner().invoke(app, [str(tmp_path / "f"), *small])
        assert result.exit_code == 0, result.output
        assert said in result.output
        assert "next: asd run configs/studies/demo.yaml" in result.output
    assert json.loads((tmp_path / "f" / MARKER).read_text())["machines"] == ["fan"]
    result = CliRunner().invoke(app, [str(tmp_path / "without"), *small[:-1], "0"])
    assert "next: asd plan configs/studies/my_machines.yaml" in result.output  # the demo wants external audio
