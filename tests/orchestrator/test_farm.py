"""The queue that hands members to slots: nothing is lost, doubled or forgotten, whichever slots die."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from orchestrator import farm
from orchestrator.farm import Reporter
from orchestrator.local_train import NOT_LOCAL, HaveAll, LocalTrainer
from orchestrator.member_queue import MemberQueue, Status, Ticket
from orchestrator.members import Member
from orchestrator.recipes import ExtractorRecipe

Queue: Any = MemberQueue.__ray_metadata__.modified_class  # type: ignore[attr-defined]  # the class without Ray
RECIPE = ExtractorRecipe.model_validate({"epochs": 2, "checkpoints": [2]})


def members(number: int) -> list[Member]:
    return [Member("mixup", seed, RECIPE, "classes", "data") for seed in range(number)]


def tickets(number: int) -> list[Ticket]:
    return [Ticket(member.hash, member.title, str(member.seed).encode()) for member in members(number)]


def seed_of(ticket: Ticket | None) -> int | None:
    return None if ticket is None else int(ticket.member)


def test_members_are_handed_out_in_order_and_each_once() -> None:
    queue = Queue(tickets(3))
    assert [seed_of(queue.take("g", slot)) for slot in (0, 1)] == [0, 1]
    queue.done(1)
    assert seed_of(queue.take("g", 1)) == 2
    queue.done(0)
    queue.done(1)
    assert [queue.take("g", slot) for slot in (0, 1)] == [None, None]
    assert queue.status().finished == [members(3)[seed].hash for seed in (1, 0, 2)]
    assert queue.in_flight == {}


def test_after_a_restart_the_members_in_flight_come_first() -> None:
    queue = Queue(tickets(5))
    assert [seed_of(queue.take("first", slot)) for slot in (0, 1)] == [0, 1]
    queue.done(0)
    assert seed_of(queue.take("first", 0)) == 2  # in flight now: 2 on slot 0, 1 on slot 1
    queue.progress(0, {"member": "x"}, 5)
    assert sorted(filter(None, (seed_of(queue.take("second", slot)) for slot in (0, 1)))) == [1, 2]
    assert queue.status().slots == {}  # what the dead slots did is not shown
    assert [seed_of(queue.take("third", slot)) for slot in (0, 1, 2, 3, 4)].count(None) == 1
    assert sorted(int(ticket.member) for ticket in queue.in_flight.values()) == [1, 2, 3, 4]


def test_fewer_slots_after_a_restart_still_work_off_everything() -> None:
    queue = Queue(tickets(4))
    for slot in range(4):
        queue.take("first", slot)
    left = []
    while ticket := queue.take("second", 0):
        left.append(seed_of(ticket))
        queue.done(0)
    assert left == [0, 1, 2, 3]


def test_a_failed_member_is_named_and_not_tried_again() -> None:
    queue = Queue(tickets(2))
    failed = queue.take("g", 0)
    queue.done(0, "the loss is not finite")
    assert seed_of(queue.take("g", 0)) == 1
    queue.done(0)
    assert queue.take("g", 0) is None
    status: Status = queue.status()
    assert status.failed == {failed.hash: "mixup seed 0: the loss is not finite"}
    assert status.finished == [members(2)[1].hash]


def test_progress_adds_up_and_an_idle_slot_disappears() -> None:
    queue = Queue(tickets(1))
    queue.take("g", 0)
    queue.progress(0, {"stage": "epoch 1/2"}, 64)
    queue.progress(0, {"stage": "epoch 2/2"}, 36)
    assert queue.status() == Status({0: {"stage": "epoch 2/2"}}, [], {}, 100)
    queue.done(0)
    queue.take("g", 0)
    assert queue.status().slots == {}


@given(number=st.integers(0, 8), slots=st.integers(1, 4), events=st.lists(st.integers(0, 5), max_size=60))
def test_whatever_dies_every_member_finishes_exactly_once(number: int, slots: int, events: list[int]) -> None:
    """An event below `slots` is that slot's turn (finish what it has, take the next); any other kills all slots."""
    queue, generation = Queue(tickets(number)), 0
    busy: set[int] = set()

    def turn(slot: int) -> bool:
        if slot in busy:
            queue.done(slot)
            busy.remove(slot)
        if queue.take(str(generation), slot) is not None:
            busy.add(slot)
        return slot in busy

    for event in events:
        if event < slots:
            turn(event)
        else:
            generation, busy = generation + 1, set()
    while turn(0):
        pass
    for slot in list(busy):
        turn(slot)
    while turn(0):
        pass
    assert sorted(queue.status().finished) == sorted(member.hash for member in members(number))
    assert queue.in_flight == {}


class Remote:
    """Stands for an actor's method; keeps what it was called with."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []

    def remote(self, *arguments: Any) -> None:
        self.calls.append(arguments)


def test_a_reporter_speaks_twice_a_second_and_loses_no_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(farm.time, "monotonic", lambda: now[0])
    queue = type("Q", (), {"progress": Remote()})()
    report = Reporter(queue, 1, members(1)[0])
    for step in range(5):  # at 100.0, 100.2, ... 100.8 s
        now[0] = 100 + step / 5
        report("epoch 1/2", 10)
    doing = {"member": "mixup seed 0", "stage": "epoch 1/2"}
    assert queue.progress.calls == [(1, doing, 10), (1, doing, 30)]  # at 100.0 and 100.6
    assert report.clips == 10  # goes with the next


def test_a_local_farm_waits_for_no_dashboard() -> None:
    """Ray Train's cleaner of reservations asks the dashboard, 12 s in vain where there is none.

    What is left out is found by its name: another version of Ray may call it otherwise.
    """
    theirs, ours = (
        {type(callback).__name__ for callback in trainer(print)._create_default_callbacks()}
        for trainer in (DataParallelTrainer, LocalTrainer)
    )
    assert theirs - ours == set(NOT_LOCAL)


def test_a_local_farm_asks_no_autoscaler() -> None:
    """What is left out is found by its name here too."""
    silenced = {name for name in vars(HaveAll) if not name.startswith("__") and callable(getattr(HaveAll, name))}
    assert silenced == {"after_controller_start", "_maybe_send_resource_request"}
    assert all(hasattr(FixedScalingPolicy, name) for name in silenced)
    assert hasattr(DataParallelTrainer, "_initialize_and_run_controller")
