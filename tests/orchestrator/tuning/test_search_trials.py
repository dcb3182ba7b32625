"""The ledger of trials, what is proposed next, and who has to wait; no Ray runs here."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from ray.tune.schedulers import TrialScheduler

from orchestrator.errors import ConfigError
from orchestrator.members import DONE
from orchestrator.storage import Store
from orchestrator.tuning.config import Search
from orchestrator.tuning.ledger import Trial, TrialLedger, best, claim
from orchestrator.tuning.outcome import SearchOutcome, best_yaml, trial_rows
from orchestrator.tuning.proposals import Tpe, importance, make_proposer
from orchestrator.tuning.source import FINISHED, TrialSource, make_scheduler
from orchestrator.tuning.template import Template, make_template

STUDY = {
    "name": "base",
    "data": {"root": "somewhere"},
    "seeds": 2,
    "recipe": {"epochs": 4, "checkpoints": [4]},
    "groups": {"g": {}},
    "systems": {"g": {"groups": ["g"]}},
}
LIST = [{"kind": "stft", "n_fft": 512}]
SPACE = {"recipe.learning_rate": {"loguniform": [1e-4, 1e-2]}, "recipe.branches": [LIST, [*LIST, {"kind": "dft"}]]}


def search(**changes: Any) -> Search:
    plain = {"name": "s", "study": STUDY, "group": "g", "space": SPACE, "trials": 8}
    return Search.model_validate({**plain, **changes})


def ended(number: int, point: dict[str, Any], value: float, state: Any = "finished") -> Trial:
    return Trial(number, point, state, ({"epoch": 1.0, "official": value},), 1.0)


@pytest.fixture
def clips() -> pa.Table:
    rows = [
        {"clip_id": f"{m}/{i}", "machine": m, "section": "00", "digest": f"{m}{i}", "split": "train"}
        | {"domain": "source", "attribute": f"a_{i % 2}", "label": "normal", "problem": ""}
        for m in ("fan", "pump")
        for i in range(4)
    ]
    return pa.Table.from_pylist(rows)


def source(folder: Path, clips: pa.Table, at_a_time: int = 2, **changes: Any) -> TrialSource:
    asked = search(**changes)
    ledger = TrialLedger(Store.at(folder))
    return TrialSource(
        template=template(asked),
        store=Store.at(folder),
        clips=clips,
        ledger=ledger,
        proposer=make_proposer(asked, ledger.in_order()),
        at_a_time=at_a_time,
        on_end=lambda trial: None,
    )


def template(asked: Search) -> Template:
    return make_template(asked, Path("search.yaml"))


def report(epoch: int, value: float, **more: Any) -> dict[str, Any]:
    return {"epoch": epoch, "official": value, "seconds": 2.0, "training_iteration": 9, **more}


def test_a_trial_is_written_whole_and_read_back(tmp_path: Path) -> None:
    ledger = TrialLedger(Store.at(tmp_path))
    trial = Trial(3, {"recipe.branches": LIST}).reported({"epoch": 1.0, "official": 0.5})
    trial = trial.reported({"epoch": 4.0, "official": 0.6}).reported({"epoch": 4.0, "official": 0.7})
    ledger.put(trial)
    assert TrialLedger(Store.at(tmp_path)).trials == {3: trial}
    assert (trial.epoch, trial.figures, len(trial.rungs)) == (4, {"official": 0.7}, 2)


def test_the_best_is_a_finished_one_and_the_first_of_equals() -> None:
    trials = [ended(0, {}, 0.5), ended(1, {}, 0.7), ended(2, {}, 0.7), ended(3, {}, 0.9, "stopped")]
    assert best(trials, "official") == trials[1]
    assert best([], "official") is None
    assert best(trials, "label_free") is None


def test_a_folder_belongs_to_one_search(tmp_path: Path) -> None:
    claim(Store.at(tmp_path), {"space": {"a": 1}, "metric": "official"})
    claim(Store.at(tmp_path), {"space": {"a": 1}, "metric": "official"})
    claim(Store.at(tmp_path), {"data": "x"})
    with pytest.raises(ConfigError, match="whose metric and space differ"):
        claim(Store.at(tmp_path), {"space": {"a": 2}, "metric": "label_free"})
    with pytest.raises(ConfigError, match="whose data differ"):
        claim(Store.at(tmp_path), {"data": "y"})


def test_tpe_learns_from_trials_of_earlier_runs() -> None:
    asked = search(method="optuna")
    points = [{"recipe.learning_rate": 1e-4 * 10 ** (k / 10), "recipe.branches": LIST} for k in range(20)]
    known = [ended(k, point, 0.9 if k < 4 else 0.1) for k, point in enumerate(points)]
    proposer = Tpe(asked, known)
    proposed = [proposer.propose(20 + k) for k in range(8)]
    rates = sorted(point["recipe.learning_rate"] for point in proposed)
    assert rates[4] < 7e-4  # near the good ones; the middle of the range is 1e-3
    assert all(isinstance(point["recipe.branches"], list) for point in proposed)
    again = Tpe(asked, known)
    assert [again.propose(20 + k) for k in range(8)] == proposed


def test_tpe_takes_up_what_was_running_and_hears_of_every_end() -> None:
    proposer = Tpe(search(method="optuna"), [])
    running = Trial(0, {"recipe.learning_rate": 2e-3, "recipe.branches": LIST})
    proposer.take_up(running)
    assert proposer.running[0].params["recipe.learning_rate"] == 2e-3
    proposer.propose(1)
    proposer.propose(2)
    proposer.learn(ended(0, running.point, 0.5))
    proposer.learn(ended(1, {}, 0.4, "stopped"))
    proposer.learn(Trial(2, {}, "lost"))
    assert [trial.state.name for trial in proposer.study.trials] == ["COMPLETE", "PRUNED", "FAIL"]


def test_importance_finds_the_field_that_matters() -> None:
    space = search(space={"recipe.learning_rate": {"uniform": [0.1, 0.9]}, "backend.clusters": [1, 2]}).space
    trials = [
        ended(k, {"recipe.learning_rate": 0.1 + 0.025 * k, "backend.clusters": 1 + k % 2}, 0.5 + 0.01 * k)
        for k in range(30)
    ]
    weights = importance(trials, space, "official")
    assert weights["recipe.learning_rate"] > 0.9
    assert importance(trials[:5], space, "official") == {}


def test_trials_are_given_written_down_and_ended(tmp_path: Path, clips: pa.Table) -> None:
    mine = source(tmp_path, clips, trials=3)
    assert (mine.suggest("a"), mine.suggest("b")) != (None, None)
    assert mine.suggest("c") is None  # two at a time
    mine.on_trial_result("a", report(1, 0.5))
    mine.on_trial_complete("a", report(4, 0.6))
    mine.on_trial_complete("b", report(1, 0.4))
    third: Any = mine.suggest("c")
    mine.on_trial_complete("c", {"epoch": 0, "seconds": 1.0, "error": "the loss is not finite"})
    assert mine.suggest("d") == FINISHED
    states = [(t.state, t.epoch, t.error) for t in TrialLedger(Store.at(tmp_path)).in_order()]
    assert states == [("finished", 4, ""), ("stopped", 1, ""), ("failed", 0, "the loss is not finite")]
    assert third["number"] == 2
    assert mine.left == 0


def test_a_full_disk_ends_no_trial_for_good(tmp_path: Path, clips: pa.Table) -> None:
    mine = source(tmp_path, clips, trials=1)
    first = mine.suggest("a")
    mine.on_trial_complete("a", {"epoch": 0, "seconds": 1.0, "error": "the disk is full", "again": True})
    (trial,) = mine.ledger.in_order()
    assert (trial.state, trial.error, mine.suggest("b")) == ("lost", "the disk is full", FINISHED)
    later = source(tmp_path, clips, trials=1)
    assert later.suggest("a") == first
    assert later.ledger.trials[0].error == ""


def test_a_later_run_takes_up_what_did_not_end_and_goes_on_counting(tmp_path: Path, clips: pa.Table) -> None:
    mine = source(tmp_path, clips, trials=3)
    first, second = mine.suggest("a"), mine.suggest("b")
    assert first is not None
    mine.on_trial_complete("a", report(4, 0.6))
    mine.on_trial_complete("b", error=True)
    assert mine.ledger.trials[1].state == "lost"
    assert mine.suggest("c") is not None  # and then the driver is killed
    later = source(tmp_path, clips, trials=5, at_a_time=9)
    given: list[Any] = [later.suggest(name) for name in "abcd"]
    assert [one["number"] for one in given] == [1, 2, 3, 4]
    assert given[0] == second
    assert later.suggest("e") is None


def test_trials_that_would_train_the_same_members_wait_for_each_other(tmp_path: Path, clips: pa.Table) -> None:
    space = {"recipe.learning_rate": [0.1, 0.2], "backend.clusters": [1, 2, 3]}
    mine = source(tmp_path, clips, at_a_time=9, space=space, method="grid", trials=None)
    given: list[Any] = [mine.suggest(name) for name in "abc"]
    assert [one and one["number"] for one in given] == [0, 3, None]  # one of each recipe
    for member in mine.plans[0].members.values():
        member.folder(mine.store).write_json(DONE, {})  # the first has trained, and is still being judged
    given = [mine.suggest(name) for name in "de"]
    assert [one["number"] for one in given] == [1, 2]
    mine.on_trial_complete("b", error=True)
    one: Any = mine.suggest("f")
    assert one["number"] == 4


def test_a_point_that_is_no_study_fails_alone(tmp_path: Path, clips: pa.Table) -> None:
    space = {"recipe.epochs": [2, 4]}  # the checkpoint is 4
    mine = source(tmp_path, clips, space=space, method="grid", trials=None)
    one: Any = mine.suggest("a")
    assert one["number"] == 1
    assert mine.ledger.trials[0].state == "failed"
    assert "checkpoints" in mine.ledger.trials[0].error


def test_early_stopping_knows_the_rungs_of_earlier_runs(tmp_path: Path) -> None:
    asked = template(search(asha={"grace_epochs": 1, "reduction": 2}))
    ledger = TrialLedger(Store.at(tmp_path))
    for number in range(4):
        ledger.put(ended(number, {}, 0.5 + 0.1 * number))
    scheduler = make_scheduler(asked, ledger, max_epochs=4)
    assert scheduler is not None
    nobody: Any = None
    decisions = []
    for value in (0.6, 0.75):  # the median of what was reported is 0.65
        trial: Any = type("T", (), {"trial_id": str(value)})()
        scheduler.on_trial_add(nobody, trial)
        decisions.append(scheduler.on_trial_result(nobody, trial, {"epoch": 1, "official": value}))
    assert decisions == [TrialScheduler.STOP, TrialScheduler.CONTINUE]
    assert make_scheduler(template(search()), ledger, max_epochs=4) is None


def test_the_table_puts_finished_trials_first_and_the_best_is_a_whole_study(tmp_path: Path) -> None:
    asked = template(search())
    point = {"recipe.learning_rate": 0.001, "recipe.branches": LIST}
    trials = [ended(0, point, 0.5), ended(1, point, 0.6), ended(2, point, 0.9, "stopped")]
    outcome = SearchOutcome(asked, Store.at(tmp_path), trials, "")
    header, *rows = trial_rows(outcome)
    assert [row[0] for row in rows] == ["1", "0", "2"]
    assert dict(zip(header, rows[0], strict=True))["official"] == "60.00"
    text = best_yaml(outcome)
    assert "trial 1, official 60.00 %" in text
    assert yaml.safe_load(text)["groups"]["g"]["learning_rate"] == 0.001
    assert outcome.agreement is None
