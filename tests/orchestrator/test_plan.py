"""What a plan says about data and members, and what it does with broken recordings; without Ray."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from orchestrator.config import Study
from orchestrator.data.synth import FactoryOptions, make_factory
from orchestrator.data.synth.faults import KINDS
from orchestrator.errors import DataError
from orchestrator.loading import study_store
from orchestrator.members import DONE, LAST, Member
from orchestrator.outlook import estimated_seconds, shared_groups
from orchestrator.plan import Plan, checked_clips, make_plan
from orchestrator.pseudo_labels import PSEUDO_SCHEMA
from orchestrator.scoring import few_clips_note, output_name

RECIPE = {
    "clip_seconds": 1.0,
    "branches": [{"kind": "stft", "n_fft": 512}, {"kind": "stft", "n_fft": 128}],
    "epochs": 4,
    "checkpoints": [3, 4],
}
UNUSABLE = [kind for kind in KINDS if kind not in ("rate_44100", "stereo")]
REASONS = {
    "zero_byte": "empty file",
    "truncated": "truncated: header promises",
    "nan": "NaN or infinite samples",
    "silent": "silent: all samples are equal",
    "text": "not readable audio",
}


@pytest.fixture(scope="module")
def factory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """18 training and 8 test clips, and one broken file of every kind."""
    folder = tmp_path_factory.mktemp("factory")
    make_factory(
        folder,
        FactoryOptions(
            machines=("fan", "gearbox"),
            train_source=7,
            train_target=2,
            test_per_condition=1,
            seconds=1.0,
            external=0,
            plant_faults=True,
        ),
    )
    return folder


def study(root: Path, storage: Path, **changes: Any) -> Study:
    plain: dict[str, Any] = {
        "name": "s",
        "storage": str(storage),
        "data": {"root": str(root), "max_bad_clips": 5},
        "seeds": 2,
        "groups": {"one": RECIPE, "two": RECIPE | {"augmentation": {"kind": "cutmix"}}},
        "systems": {"both": {"groups": ["one", "two"]}},
    }
    return Study.model_validate(plain | changes)


@pytest.fixture(scope="module")
def made(factory: Path, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return make_plan(study(factory, tmp_path_factory.mktemp("none")))


def test_broken_recordings_stop_the_run_with_names_reasons_and_a_way_on(factory: Path, tmp_path: Path) -> None:
    for allowed in (0, 4):
        with pytest.raises(DataError) as stop:
            make_plan(study(factory, tmp_path, data={"root": str(factory), "max_bad_clips": allowed}))
        first, *listed = str(stop.value).splitlines()
        assert first.startswith(f"5 clips cannot be used, {allowed} are allowed; repair or remove them")
        assert "data.max_bad_clips=5" in first
        planted = dict(line.split(",") for line in (factory / "planted_faults.csv").read_text().splitlines()[1:])
        bad = {file: kind for file, kind in planted.items() if kind in UNUSABLE}
        assert len(listed) == len(bad) == 5
        for file, kind in bad.items():
            assert any(f"{file}: {REASONS[kind]}" in line for line in listed), (file, kind, listed)


def test_as_many_broken_recordings_as_allowed_are_left_out(made: Plan) -> None:
    assert len(made.clips) == 18 + 8 + 2
    assert set(made.clips["problem"].to_pylist()) == {""}


def test_other_rates_and_stereo_are_accepted(made: Plan, factory: Path) -> None:
    rows = {(row["sample_rate"], row["channels"]): row for row in made.clips.to_pylist()}
    assert set(rows) == {(16000, 1), (44100, 1), (16000, 2)}
    assert rows[44100, 1]["samples"] == rows[16000, 2]["samples"] == 16000  # at 16 kHz, channel 0


def test_a_late_fault_is_found_although_the_rest_is_known(factory: Path, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(factory, root)
    first = make_plan(study(root, tmp_path))
    first.store.write_table("clips.parquet", first.clips)
    next((root / "fan" / "test").glob("*.wav")).write_bytes(b"")
    with pytest.raises(DataError, match="6 clips cannot be used, 5 are allowed"):
        make_plan(study(root, tmp_path))


def test_two_files_of_one_clip_are_refused(factory: Path, tmp_path: Path) -> None:
    shutil.copytree(factory, tmp_path / "twice")
    clip = next((tmp_path / "twice" / "fan" / "train").glob("*.wav"))
    shutil.copy(clip, clip.with_suffix(".flac"))
    with pytest.raises(DataError, match="1 clips exist twice; remove one file") as refusal:
        make_plan(study(tmp_path / "twice", tmp_path))
    for path in (clip, clip.with_suffix(".flac")):
        assert f"  {path}\n" in f"{refusal.value}\n"


def test_truth_labels_clips_whose_names_say_nothing_and_changes_no_score(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for file in ("train/section_00_source_train_normal_0000_n_A.wav", "test/section_00_0001.wav"):
        (tmp_path / "fan" / file).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / "fan" / file, rng.normal(0, 0.1, 16000), 16000)
    (tmp_path / "truth.csv").write_text("machine,file_name,is_anomaly,is_target\nfan,section_00_0001.wav,1,1\n")
    plain = make_plan(study(tmp_path, tmp_path, data={"root": str(tmp_path)}))
    told = make_plan(study(tmp_path, tmp_path, data={"root": str(tmp_path), "truth": str(tmp_path / "truth.csv")}))
    labels = [[(row["label"], row["domain"]) for row in p.clips.to_pylist()] for p in (plain, told)]
    assert labels == [[("unknown", "unknown"), ("normal", "source")], [("anomaly", "target"), ("normal", "source")]]
    assert (plain.key, list(plain.members)) == (told.key, list(told.members))


def test_members_are_seeds_times_groups(made: Plan) -> None:
    assert list(made.groups) == ["one", "two"]
    assert [member.seed for member in made.groups["one"] + made.groups["two"]] == [0, 1, 0, 1]
    assert len(made.members) == 4
    assert all(member.hash == key for key, member in made.members.items())


def test_groups_of_one_recipe_share_their_members(factory: Path, tmp_path: Path) -> None:
    shared = make_plan(study(factory, tmp_path, groups={"one": RECIPE, "two": RECIPE}))
    assert shared.groups["one"] == shared.groups["two"]
    assert len(shared.members) == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "another"},
        {
            "cluster": {
                "slots": 7,
                "cpus_per_slot": 2,
                "gpus_per_slot": 0.5,
                "cuda_graphs": True,
                "address": "10.0.0.1:6379",
            }
        },
        {"tracking": {"enabled": False}},
        {"ensemble": {"percentile": 80}},
        {"backend": {"clusters": 3}},
    ],
)
def test_where_and_how_fast_it_runs_changes_no_member(
    made: Plan, factory: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    other = make_plan(study(factory, tmp_path, **changes))
    assert list(other.members) == list(made.members)
    assert (other.key == made.key) == ("backend" not in changes)


def test_other_recordings_are_other_members(made: Plan, factory: Path, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(factory, root)
    moved = make_plan(study(root, tmp_path))
    assert (list(moved.members), moved.key) == (list(made.members), made.key)  # the same contents elsewhere
    next((root / "fan" / "test").glob("*.wav")).unlink()
    fewer_tests = make_plan(study(root, tmp_path))
    assert list(fewer_tests.members) == list(made.members)
    assert fewer_tests.key != made.key
    next((root / "fan" / "train").glob("*_0000_*.wav")).unlink()
    assert not set(make_plan(study(root, tmp_path)).members) & set(made.members)


def keep(plan: Plan, member: Member, epoch: int, *, done: bool = False, scored: bool = False) -> None:
    """The files of a member that got so far."""
    folder = member.folder(plan.store)
    folder.write(LAST, b"state")
    folder.write_json("progress.json", {"epoch": epoch})
    if done:
        folder.write_json(DONE, {"history": []})
    if scored:
        folder.write(output_name(member, plan.key), b"scores")


def test_states_and_the_work_left_computed_by_hand(factory: Path, tmp_path: Path) -> None:
    plan = make_plan(study(factory, tmp_path))
    a, b, c, d = plan.members.values()
    keep(plan, b, 3)
    keep(plan, c, 4, done=True)
    keep(plan, d, 4, done=True, scored=True)
    assert [plan.state(member) for member in (a, b, c, d)] == ["to train", "resume at epoch 4", "to score", "done"]
    assert [member.hash for member in plan.pending] == [member.hash for member in (c, b, a)]  # most advanced first
    # 20 training clips: 4 epochs of a and 1 of b; 28 clips scored by a, b, c
    assert plan.clip_passes() == 20 * (4 + 1) + 28 * 3
    # 2 of 3 branches, 1 s: 100 clip epochs at 150 s/s, 3 members x 2 checkpoints x 28 clips at 500 s/s
    assert estimated_seconds(plan) == pytest.approx(2 / 3 * (100 / 150 + 3 * 2 * 28 / 500))


def test_another_backend_means_scoring_only(factory: Path, tmp_path: Path) -> None:
    plan = make_plan(study(factory, tmp_path))
    for member in plan.members.values():
        keep(plan, member, 4, done=True, scored=True)
    assert plan.pending == []
    assert (plan.clip_passes(), estimated_seconds(plan)) == (0, 0)
    other = make_plan(study(factory, tmp_path, backend={"clusters": 3}))
    assert {other.state(member) for member in other.members.values()} == {"to score"}
    assert other.clip_passes() == 4 * 28
    assert {plan.state(member) for member in plan.members.values()} == {"done"}  # the old scores are kept


def test_planning_writes_nothing(factory: Path, tmp_path: Path) -> None:
    before = sorted(factory.rglob("*"))
    planned = study(factory, tmp_path / "results")
    make_plan(planned)
    assert sorted(factory.rglob("*")) == before
    assert not (tmp_path / "results").exists()
    assert study_store(planned).root == str(tmp_path / "results" / "s")


def test_machines_with_few_source_clips_are_named(made: Plan) -> None:
    note = few_clips_note(made.clips, made.study.backend)  # 16 clusters; 7 source clips and a usable oddity a machine
    assert note is not None
    assert "backend.clusters=16: fan/00 (8), gearbox/00 (8)" in note
    assert "with backend.clusters=2 this is better" in note
    two, three = (made.study.backend.model_copy(update={"clusters": k}) for k in (2, 3))
    assert few_clips_note(made.clips, three) is not None
    assert few_clips_note(made.clips, two) is None


def test_only_usable_rows_get_through(made: Plan, factory: Path) -> None:
    bad: pa.Table = make_plan(study(factory, factory / "nowhere")).clips
    assert checked_clips(bad, made.study.data).equals(bad)


PA = RECIPE | {"pseudo_labels": True}
ENCODER = {"encoder": {"clip_seconds": 1.0, "n_fft": 512}}
AE = {"kind": "autoencoder", "epochs": 2}


def stages(factory: Path, storage: Path, **changes: Any) -> Study:
    groups = {"one": RECIPE, "pa": PA, "ae": AE}
    systems = {"one": {"groups": ["one"]}, "pa": {"groups": ["pa"]}, "ae": {"groups": ["ae"]}}
    return study(factory, storage, **({"groups": groups, "systems": systems, "pseudo_labels": ENCODER} | changes))


def test_a_machine_without_attributes_gets_two_encoders_and_its_groups_wait(factory: Path, tmp_path: Path) -> None:
    plan = make_plan(stages(factory, tmp_path))
    assert list(plan.encoders) == ["gearbox"]
    first, second = plan.encoders["gearbox"]
    assert (first.machine, first.seed, second.seed) == ("gearbox", 0, 1)
    assert list(plan.members)[:2] == [first.hash, second.hash]  # they come first: others wait for them
    assert plan.waiting == {"pa": "pseudo-labels"}
    assert [member.machine for member in plan.groups["ae"]] == ["fan", "gearbox"]
    assert len(plan.members) == 2 + 2 + 2
    assert plan.size == 2 + 2 + 2 + 2


def test_with_their_labels_the_groups_are_planned(factory: Path, tmp_path: Path) -> None:
    plan = make_plan(stages(factory, tmp_path))
    train = [r for r in plan.clips.to_pylist() if r["split"] == "train" and r["machine"] == "gearbox"]
    rows = [
        {k: r[k] for k in ("clip_id", "machine", "section", "domain")} | {"cluster": 0, "labels": [0]} for r in train
    ]
    plan.pseudo_labels_folder().write_table("pseudo_labels.parquet", pa.Table.from_pylist(rows, schema=PSEUDO_SCHEMA))
    plan = make_plan(stages(factory, tmp_path))
    assert plan.waiting == {}
    assert plan.size == len(plan.members) == 8  # as before its labels were there: threads depend on it
    (member, _), (plain, _) = plan.groups["pa"], plan.groups["one"]
    assert member.classes != plain.classes
    assert member.data == plain.data
    assert "gearbox|00|pseudo_00|target" in plan.label_sets[member.classes].classes
    rows = [row | {"labels": [0, 1]} for row in rows]
    plan.pseudo_labels_folder().write_table("pseudo_labels.parquet", pa.Table.from_pylist(rows, schema=PSEUDO_SCHEMA))
    other = make_plan(stages(factory, tmp_path)).groups["pa"][0]
    assert other.hash != member.hash  # a member is named by what it learns


def test_where_every_machine_has_attributes_pseudo_labels_change_nothing(factory: Path, tmp_path: Path) -> None:
    root = tmp_path / "fan_only"
    shutil.copytree(factory / "fan", root / "fan")
    plan = make_plan(stages(root, tmp_path))
    assert (plan.encoders, plan.waiting) == ({}, {})
    assert plan.groups["pa"] == plan.groups["one"]
    assert shared_groups(plan) == {"pa": "one"}
    assert (len(plan.members), plan.size) == (3, 5)


def test_attributes_that_are_not_there_are_named_before_hours_of_training(factory: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"pseudo_labels.truth: no CSV .*t.csv; unset it, or give"):
        make_plan(stages(factory, tmp_path, pseudo_labels=ENCODER | {"truth": str(tmp_path / "t.csv")}))


def test_noise_needs_another_machine(factory: Path, tmp_path: Path) -> None:
    root = tmp_path / "gearbox_only"
    shutil.copytree(factory / "gearbox", root / "gearbox")
    with pytest.raises(DataError, match="pseudo-labels of gearbox need recordings of other machines as noise"):
        make_plan(stages(root, tmp_path))


def test_a_study_that_asks_for_no_pseudo_labels_trains_no_encoder(made: Plan) -> None:
    assert made.encoders == {}
    assert made.waiting == {}
