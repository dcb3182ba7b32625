"""One trial in this process, without Ray: members advance rung by rung and end as if nothing had interrupted them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from orchestrator.data.packing import Part, pack
from orchestrator.members import DONE, is_done
from orchestrator.runtime import Slots
from orchestrator.scoring import output_name
from orchestrator.storage import Store
from orchestrator.tuning import trial as trial_module
from orchestrator.tuning.config import AshaConfig, Search
from orchestrator.tuning.figures import official
from orchestrator.tuning.template import make_template
from orchestrator.tuning.trial import Ground, plan_trial, run_trial, rungs
from orchestrator.work import make_work, work_on

STUDY = {
    "name": "base",
    "data": {"root": "somewhere"},
    "seeds": 2,
    "backend": {"clusters": 2, "n_init": 1},
    "recipe": {
        "clip_seconds": 0.5,
        "branches": [{"kind": "stft", "n_fft": 256}],
        "batch_size": 4,
        "epochs": 3,
        "checkpoints": [2, 3],
    },
    "pseudo_labels": {"clusters": 2, "n_init": 1, "encoder": {"clip_seconds": 0.5, "n_fft": 256, "epochs": 1}},
    "groups": {"plain": {}, "pa": {"pseudo_labels": True}, "ae": {"kind": "autoencoder", "epochs": 2}},
    "systems": {"plain": {"groups": ["plain"]}},
}
POINT = {"recipe.learning_rate": 0.002}


@pytest.fixture(scope="module")
def clips() -> pa.Table:
    """Two machines; pump was recorded without attributes."""
    kinds = [("train", "source", "normal")] * 5 + [("train", "target", "normal")]
    kinds += [("test", domain, label) for domain in ("source", "target") for label in ("normal", "anomaly")]
    rows = [
        {"clip_id": f"{machine}/{i}", "machine": machine, "section": "00", "digest": f"{machine}{i}", "split": split}
        | {"domain": domain, "label": label, "attribute": name if name == "noAttribute" else f"{name}{i % 2}"}
        | {"file_name": f"{i}.wav", "path": f"{machine}/{i}.wav", "problem": ""}
        for machine, name in (("fan", "speed_"), ("pump", "noAttribute"))
        for i, (split, domain, label) in enumerate(kinds)
    ]
    return pa.Table.from_pylist(rows)


@pytest.fixture(scope="module")
def parts(clips: pa.Table) -> list[Part]:
    random = np.random.default_rng(0)
    return [pack([random.normal(0, 3000, 8000 + 100 * i).astype(np.int16) for i in range(len(clips) // 2)])] * 2


@pytest.fixture(autouse=True)
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial_module.ray, "get", lambda value: value)


def ground(folder: Path, clips: pa.Table, parts: list[Any], **changes: Any) -> Ground:
    plain = {"name": "s", "study": STUDY, "group": "plain", "space": {"recipe.learning_rate": [0.001, 0.002]}}
    search = Search.model_validate({**plain, "trials": 2, **changes})
    silent = SimpleNamespace(progress=SimpleNamespace(remote=lambda *told: None))
    template = make_template(search, Path("search.yaml"))
    return Ground(template, Store.at(folder), clips, parts, Slots(1, 1, 0), silent)


def member_files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.glob("members/*/*")}


def test_rungs_by_hand() -> None:
    assert rungs(None, 18) == [18]
    assert rungs(AshaConfig(grace_epochs=1, reduction=3), 18) == [1, 3, 9, 18]
    assert rungs(AshaConfig(grace_epochs=2, reduction=3), 2) == [2]


def test_members_that_paused_at_rungs_score_as_those_of_a_run(
    tmp_path: Path, clips: pa.Table, parts: list[Any]
) -> None:
    asha = {"grace_epochs": 1, "reduction": 2}
    mine = ground(tmp_path / "search", clips, parts, asha=asha, label_free=True)
    told = list(run_trial(0, POINT, mine))
    assert [epoch for epoch, _ in told] == [1, 2, 3]
    assert [figures.label_free is None for _, figures in told] == [
        True,
        True,
        False,
    ]  # it costs; only where it is asked

    study, store = mine.template.study_of(POINT), Store.at(tmp_path / "run")
    plan = plan_trial(study, store, clips)
    work = make_work(store, clips, study.backend, list(plan.label_sets.values()), [])
    bank = trial_module.WaveBank(parts)
    for member in plan.groups["plain"]:
        work_on(member, work, bank, lambda stage, clips: None)
    tables = [m.folder(store).read_table(output_name(m, plan.key)) for m in plan.groups["plain"]]
    scores = np.array([table["score"].to_numpy().reshape(2, len(clips)) for table in tables])
    assert told[-1][1].official == official(clips, scores.mean(axis=(0, 1)))
    assert told[-1][1].seeds_mean == np.mean([official(clips, seed.mean(axis=0)) for seed in scores])
    assert {m.hash for m in plan.groups["plain"]} == {path.name for path in (tmp_path / "search" / "members").iterdir()}


def test_a_trial_that_is_run_again_trains_nothing(tmp_path: Path, clips: pa.Table, parts: list[Any]) -> None:
    mine = ground(tmp_path, clips, parts)
    (first,) = list(run_trial(0, POINT, mine))
    before = member_files(tmp_path)
    (again,) = list(run_trial(0, POINT, mine))
    assert (again, member_files(tmp_path)) == (first, before)


def test_a_trial_that_was_stopped_goes_on_from_its_rung(tmp_path: Path, clips: pa.Table, parts: list[Any]) -> None:
    stopped = run_trial(0, POINT, ground(tmp_path, clips, parts, asha={"grace_epochs": 1}))
    assert next(stopped)[0] == 1
    stopped.close()
    assert not list(tmp_path.glob(f"members/*/{DONE}"))
    before = {path: stamp for path, stamp in member_files(tmp_path).items() if path.name == "epoch_001.pt"}
    assert len(before) == 2
    ((epoch, figures),) = run_trial(0, POINT, ground(tmp_path, clips, parts))
    assert epoch == 3
    assert before.items() <= member_files(tmp_path).items()
    ((_, undisturbed),) = run_trial(0, POINT, ground(tmp_path / "other", clips, parts))
    assert figures == undisturbed


def test_another_backend_neither_trains_nor_embeds(
    tmp_path: Path, clips: pa.Table, parts: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    space = {"backend.clusters": [1, 2, 3]}
    mine = ground(tmp_path, clips, parts, space=space, label_free=True)
    seen: list[np.ndarray] = []  # figures of so few clips may be equal by chance, distances are not
    real = trial_module.distances
    monkeypatch.setattr(trial_module, "distances", lambda *given: seen.append(real(*given)) or seen[-1])
    ((_, first),) = run_trial(0, {"backend.clusters": 1}, mine)
    before, number = member_files(tmp_path), len(seen)
    with monkeypatch.context() as context:
        context.setattr(trial_module, "embed_checkpoints", None)  # anyone who calls it fails
        ((_, second),) = run_trial(1, {"backend.clusters": 3}, mine)
    assert member_files(tmp_path) == before
    assert len(seen) == 2 * number > 0
    assert all((one != other).any() for one, other in zip(seen[:number], seen[number:], strict=True))
    assert first.label_free is not None
    assert second.label_free is not None
    ((_, alone),) = run_trial(1, {"backend.clusters": 3}, mine._replace(store=Store.at(tmp_path / "alone")))
    assert alone == second


def test_pseudo_labels_are_made_in_the_trial_that_needs_them(tmp_path: Path, clips: pa.Table, parts: list[Any]) -> None:
    mine = ground(tmp_path, clips, parts, group="pa")
    assert plan_trial(mine.template.study_of(POINT), mine.store, clips).waiting == {"pa": "pseudo-labels"}
    ((epoch, figures),) = run_trial(0, POINT, mine)
    assert epoch == 3
    assert figures.official is not None
    plan = plan_trial(mine.template.study_of(POINT), mine.store, clips)
    assert not plan.waiting
    assert all(is_done(member.folder(mine.store)) for member in plan.members.values())
    assert len(plan.members) == 2 + 2


def test_autoencoders_are_judged_by_the_clips_of_their_own_machine(
    tmp_path: Path, clips: pa.Table, parts: list[Any]
) -> None:
    mine = ground(tmp_path, clips, parts, group="ae", asha={"grace_epochs": 1, "reduction": 2})
    told = list(run_trial(0, {"recipe.learning_rate": 0.001}, mine))
    assert [epoch for epoch, _ in told] == [1, 2]
    assert all(figures.official is not None for _, figures in told)
    assert len(list((tmp_path / "members").iterdir())) == 2
