"""What a cluster can hold, computed by hand on made-up nodes, and quick refusals where it is too small or not there."""

import os
import socket
import time

import pytest
import ray
from hypothesis import given
from hypothesis import strategies as st
from support import free_port

from orchestrator import runtime
from orchestrator.config import ClusterConfig
from orchestrator.errors import ResourceError
from orchestrator.runtime import Slots, busy_note, find_slots, ray_session, token_hint, worker_environment

Node = dict[str, float]


def nodes_are(monkeypatch: pytest.MonkeyPatch, *nodes: Node) -> None:
    alive = [{"Resources": node, "Alive": True} for node in nodes]
    dead = {"Resources": {"CPU": 512.0, "GPU": 64.0}, "Alive": False}
    monkeypatch.setattr(ray, "nodes", lambda: [*alive, dead])


LAPTOP: Node = {"CPU": 2.0}
HEAD: Node = {"CPU": 4.0}
TWO_GPUS: Node = {"CPU": 16.0, "GPU": 2.0}


@pytest.mark.parametrize(
    ("nodes", "cluster", "members", "expected"),
    [
        ([LAPTOP], {}, 8, Slots(2, 1, 0)),
        ([LAPTOP], {}, 1, Slots(1, 1, 0)),  # never more slots than members
        ([LAPTOP], {"cpus_per_slot": 2}, 8, Slots(1, 2, 0)),
        ([LAPTOP], {"cpus_per_slot": 0.5}, 8, Slots(4, 0.5, 0)),
        ([LAPTOP], {"cpus_per_slot": 0.1}, 99, Slots(20, 0.1, 0)),  # 2 / 0.1 in floats is not below 20
        ([LAPTOP], {"slots": 1}, 8, Slots(1, 1, 0)),
        ([LAPTOP, HEAD], {"cpus_per_slot": 4}, 8, Slots(1, 4, 0)),  # 6 CPUs, but a slot lies on one node
        ([HEAD, TWO_GPUS], {}, 8, Slots(2, 1, 1)),  # auto: one per GPU, the head's CPUs idle
        ([HEAD, TWO_GPUS], {"gpus_per_slot": 0}, 99, Slots(20, 1, 0)),
        ([TWO_GPUS], {"gpus_per_slot": 0.5}, 8, Slots(4, 1, 0.5)),
        ([TWO_GPUS], {"gpus_per_slot": 0.4}, 8, Slots(4, 1, 0.4)),  # 2 on each GPU; 2 / 0.4 = 5 would span both
        ([TWO_GPUS], {"gpus_per_slot": 0.1}, 99, Slots(16, 1, 0.1)),  # 20 by GPU, 16 by CPU
        ([TWO_GPUS], {"gpus_per_slot": 2}, 8, Slots(1, 1, 2)),
        ([TWO_GPUS, TWO_GPUS], {"cpus_per_slot": 12}, 8, Slots(2, 12, 1)),
        ([{"CPU": 8.0, "GPU": 3.0}], {"gpus_per_slot": 2}, 8, Slots(1, 1, 2)),
    ],
)
def test_slots_computed_by_hand(
    monkeypatch: pytest.MonkeyPatch, nodes: list[Node], cluster: dict, members: int, expected: Slots
) -> None:
    nodes_are(monkeypatch, *nodes)
    assert find_slots(ClusterConfig.model_validate(cluster), members) == expected


@given(cpus=st.integers(1, 64), gpus=st.integers(1, 8), share=st.integers(1, 10), nodes=st.integers(1, 3))
def test_fractions_never_promise_more_than_there_is(cpus: int, gpus: int, share: int, nodes: int) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        nodes_are(monkeypatch, *[{"CPU": float(cpus), "GPU": float(gpus)}] * nodes)
        slots = find_slots(ClusterConfig(gpus_per_slot=share / 10), 10_000)
    assert slots.number == nodes * min(cpus, gpus * (10 // share))  # whole slots of each GPU


@pytest.mark.parametrize(
    ("nodes", "cluster", "parts"),
    [
        ([LAPTOP], {"slots": 64}, ("64 slot(s) of 1 CPU + 0 GPU", "holds 2", "2 CPU + 0 GPU", "cluster.slots")),
        ([LAPTOP], {"gpus_per_slot": 1}, ("1 slot(s) of 1 CPU + 1 GPU", "holds 0", "cluster.gpus_per_slot")),
        ([LAPTOP, HEAD], {"cpus_per_slot": 8}, ("1 slot(s) of 8 CPU", "nodes: 2 CPU + 0 GPU, 4 CPU + 0 GPU")),
        ([TWO_GPUS], {"slots": 5, "gpus_per_slot": 0.4}, ("5 slot(s) of 1 CPU + 0.4 GPU", "holds 4")),
    ],
)
def test_too_little_is_refused_with_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, nodes: list[Node], cluster: dict, parts: tuple[str, ...]
) -> None:
    nodes_are(monkeypatch, *nodes)
    with pytest.raises(ResourceError) as refusal:
        find_slots(ClusterConfig.model_validate(cluster), 1)
    for part in parts:
        assert part in str(refusal.value)


def test_a_cpu_slot_has_as_many_threads_as_cpus() -> None:
    assert [Slots(1, cpus, 0).threads for cpus in (0.5, 1, 2.5, 8)] == [1, 1, 2, 8]


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "ray://127.0.0.1:{}", "localhost:{}"])
def test_a_head_that_is_not_there_is_refused_at_once(form: str) -> None:
    address, started = form.format(free_port()), time.monotonic()
    with pytest.raises(ResourceError) as refusal, ray_session(ClusterConfig(address=address)):
        pass
    assert time.monotonic() - started < 10  # Ray alone takes two minutes, and then ends the process
    for part in (f"cluster.address={address}", "Connection refused", "ray start --head", "unset cluster.address"):
        assert part in str(refusal.value)


@pytest.mark.parametrize("address", ["local", "auto", "ray"])
def test_words_for_an_address_are_not_knocked_at(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setattr(socket, "create_connection", lambda *args, **named: pytest.fail("knocked"))
    runtime.knock(address)


@pytest.mark.parametrize(
    ("nodes", "cluster", "of_study", "expected"),
    [
        ([LAPTOP], {}, 1, (1, 2)),
        ([LAPTOP], {}, 2, (1, 1)),
        ([{"CPU": 8.0}], {}, 3, (1, 2)),
        ([{"CPU": 8.0}], {}, 5, (1, 1)),  # no whole core more for each
        ([{"CPU": 64.0}], {}, 5, (1, 4)),
        ([LAPTOP], {}, None, (1, 1)),  # not known
        ([LAPTOP], {"slots": 1}, 1, (1, 1)),  # what the user asked for
        ([LAPTOP], {"cpus_per_slot": 1}, 1, (1, 1)),
        ([LAPTOP], {"address": "10.0.0.1:6379"}, 1, (1, 1)),
        ([TWO_GPUS], {}, 1, (1, 1)),
    ],
)
def test_members_fewer_than_cores_share_them(
    monkeypatch: pytest.MonkeyPatch, nodes: list[Node], cluster: dict, of_study: int | None, expected: tuple[int, float]
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    nodes_are(monkeypatch, *nodes)
    slots = find_slots(ClusterConfig.model_validate(cluster), 1, of_study)
    assert (slots.number, slots.cpus) == expected


def test_workers_get_an_allocator_unless_the_user_chose_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    assert worker_environment()["LD_PRELOAD"].endswith("libjemalloc.so")
    monkeypatch.setenv("LD_PRELOAD", "/usr/lib/mine.so")
    assert "LD_PRELOAD" not in worker_environment()


@pytest.mark.ray
def test_a_local_ray_is_started_for_a_run_and_ended_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    if ray.is_initialized():
        pytest.skip("another test's Ray is running; ray_session would join it")
    monkeypatch.setenv("RAY_ADDRESS", "local")
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    with ray_session(ClusterConfig()):
        assert "LD_PRELOAD" not in os.environ
        variables = ray.get(ray.remote(lambda: dict(os.environ)).remote())
        assert variables.items() >= (worker_environment() | runtime.RAY_SETTINGS).items()
        with ray_session(ClusterConfig()):  # joins, and leaves it running
            pass
        assert ray.is_initialized()
        with pytest.raises(ResourceError, match="asks for 4096 slot"):
            find_slots(ClusterConfig(slots=4096), 1)
    assert not ray.is_initialized()


def test_a_busy_cluster_is_said_and_a_free_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "available_resources", lambda: {"CPU": 1.0})
    told = busy_note(Slots(2, 1, 0.5))
    assert told is not None
    assert "1 of 2 CPU" in told
    assert "0 of 1 GPU" in told
    assert busy_note(Slots(1, 1, 0)) is None


def test_gpu_shares_are_fractions_or_whole_numbers() -> None:
    assert [ClusterConfig(gpus_per_slot=share).gpus_per_slot for share in (0.25, 1, 2)] == [0.25, 1, 2]
    with pytest.raises(ValueError, match="a whole number"):
        ClusterConfig(gpus_per_slot=1.5)


def test_a_refused_connection_names_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray sends its token to a typed address only where RAY_AUTH_MODE says so; who said something knows."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert token_hint() == ""
    monkeypatch.delenv("RAY_AUTH_MODE")
    assert "export RAY_AUTH_MODE=token" in token_hint()
