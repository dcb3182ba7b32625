"""Ray's start and end, and what its cluster can hold."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import ray

from orchestrator.config import ClusterConfig
from orchestrator.errors import ResourceError

CONNECT_SECONDS = 5.0
MOST_THREADS = 4  # of a slot, unless a study asks for more
LOCAL = "local"  # a Ray of this run alone
# Any freed piece serves any smaller request. By default a request takes none of more than 64 times its size: once pages
# were given back, between members, every step took new ones, 60 MiB a second in a small study.
PAGES_KEPT = "dirty_decay_ms:-1,muzzy_decay_ms:-1,thp:always,lg_extent_max_active_fit:63"
RAY_SETTINGS = {  # given to all workers
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # 2 s by default, which a stage waits for at its end
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_WARN_BLOCKING_GET_INSIDE_ASYNC": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a process that nobody asks: slots go on from their last epoch anyway
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


class Slots(NamedTuple):
    """So many workers that each train one member at a time."""

    number: int
    cpus: float
    gpus: float
    most: int = 0  # on a cluster whose nodes come and go: so many if they come, and one if they go; 0: a fixed number

    @property
    def threads(self) -> int:
        return max(1, int(self.cpus))


def worker_environment() -> dict[str, str]:
    """Environment of every worker: an allocator that keeps its pages (1.3-1.7x on CPU), and no hidden threads."""
    allocator = Path(ray.__file__).parent / "core" / "libjemalloc.so"
    environment = {"MLFLOW_DISABLE_TELEMETRY": "true"}
    if allocator.exists() and "LD_PRELOAD" not in os.environ:
        environment["LD_PRELOAD"] = str(allocator)
        environment["MALLOC_CONF"] = PAGES_KEPT
    return environment


@contextmanager
def ray_session(cluster: ClusterConfig) -> Iterator[None]:
    """Connect to `cluster.address`, or start a local Ray for this run; leave a Ray that was there before running."""
    if ray.is_initialized():
        yield
        return
    for name, value in RAY_SETTINGS.items():
        os.environ.setdefault(name, value)
    address = cluster_address(cluster)
    settings: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": logging.ERROR}
    environment = worker_environment()
    try:
        if address == LOCAL:
            with _inherited(environment | {"RAY_LD_PRELOAD_ON_WORKERS": "1"}):  # a job's own may say 0
                ray.init(**settings, include_dashboard=False)
        else:
            knock(address)
            variables = environment | {name: os.environ[name] for name in RAY_SETTINGS}
            ray.init(**settings, runtime_env={"env_vars": variables})
    except (OSError, RuntimeError, ValueError) as error:
        if address == LOCAL:
            raise ResourceError(f"Ray does not start on this machine: {error}. Its own messages: /tmp/ray") from error
        raise ResourceError(
            f"no Ray cluster at cluster.address={address}: {error}. Start one with `ray start --head`, "
            f"or unset cluster.address for a local one{token_hint()}"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _inherited(environment: dict[str, str]) -> Iterator[None]:
    """Variables that a Ray started here hands down: its first processes, which start with it, are used at once.

    Given as a job's environment they would make it start others.
    """
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def token_hint() -> str:
    """What may help where a cluster that is there refuses: Ray sends its token to a given address only when told."""
    return "" if "RAY_AUTH_MODE" in os.environ else "; if the one there asks for a token: export RAY_AUTH_MODE=token"


def knock(address: str) -> None:
    """OSError at once where nobody listens at host:port; Ray itself would try for minutes and end the process."""
    host, _, port = address.split("://")[-1].rstrip("/").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()


def find_slots(cluster: ClusterConfig, members: int, of_study: int | None = None) -> Slots:
    """How many slots to start for so many members; ResourceError at once where the cluster cannot hold them.

    `of_study` is how many members the whole study has, where that is known: with half as many as a local Ray has cores,
    or fewer, `cluster.cpus_per_slot=auto` gives each more threads. It is not those left to do: a run that goes on would
    train with other threads, and scores of other threads differ in their last digits.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    has_gpus = any(node.get("GPU", 0) for node in nodes)
    gpus = float(has_gpus) if cluster.gpus_per_slot == "auto" else cluster.gpus_per_slot
    local = cluster_address(cluster) == LOCAL
    cpus = 1.0 if cluster.cpus_per_slot == "auto" else cluster.cpus_per_slot
    if (cluster.cpus_per_slot, cluster.slots) == ("auto", "auto") and of_study and local and not gpus:
        cores = int(sum(node.get("CPU", 0) for node in nodes))
        cpus = float(max(1, min(cores // of_study, MOST_THREADS)))
    fit = sum(_fitting(node, cpus, gpus) for node in nodes)
    wanted = max(1, fit) if cluster.slots == "auto" else cluster.slots
    if fit < wanted:
        offer = ", ".join(f"{node.get('CPU', 0):g} CPU + {node.get('GPU', 0):g} GPU" for node in nodes)
        raise ResourceError(
            f"the study asks for {wanted} slot(s) of {cpus:g} CPU + {gpus:g} GPU, but the "
            f"cluster holds {fit} (nodes: {offer}). Lower cluster.slots, cluster.cpus_per_slot or cluster.gpus_per_slot"
        )
    most = members if cluster.slots == "auto" else min(wanted, members)
    return Slots(min(wanted, members), cpus, gpus, 0 if local else most)


def cluster_address(cluster: ClusterConfig) -> str:
    """Of the cluster to join, or `LOCAL`."""
    return cluster.address or os.environ.get("RAY_ADDRESS") or LOCAL


def busy_note(slots: Slots) -> str | None:
    """A sentence where other work holds what the slots need: they start when it lets go, and that may take long."""
    free = ray.available_resources()
    needed = {"CPU": slots.number * slots.cpus, "GPU": slots.number * slots.gpus}
    short = [f"{free.get(kind, 0):g} of {n:g} {kind}" for kind, n in needed.items() if free.get(kind, 0) < n]
    return f"the cluster is busy: {', '.join(short)} free; training starts when the rest is" if short else None


def _fitting(node: dict[str, float], cpus: float, gpus: float) -> int:
    by_cpu = int(node.get("CPU", 0) / cpus + 1e-6)
    if not gpus:
        return by_cpu
    per_gpu = int(1 / gpus + 1e-6) if gpus <= 1 else 1 / gpus  # a fraction never spans two GPUs
    return min(by_cpu, int(node.get("GPU", 0) * per_gpu + 1e-6))
