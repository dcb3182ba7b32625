"""Scorers on Ray Serve: replicas decode in threads and send clips of many requests through the networks together."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from orchestrator.errors import ResourceError, UserError, first_line
from orchestrator.serving.web.backend import Unavailable
from orchestrator.serving.web.batching import Batcher
from orchestrator.serving.web.clips import Clip, Result
from orchestrator.serving.web.schema import Model

if TYPE_CHECKING:
    from orchestrator.serving.web.scoring import ClipScorer, Heard

BATCH_CLIPS = 16
DECODERS = 2
# Memory of a long recording goes back to the kernel; in a run of the farm, which ends, it is kept (runtime.py).
ALLOCATOR = {"MALLOC_CONF": "dirty_decay_ms:5000,muzzy_decay_ms:5000"}
DECODED_AHEAD = 2 * BATCH_CLIPS  # clips between file and score: they are up to 600 times as large as their files
ALIVE_SECONDS = 5.0


class Plan(NamedTuple):
    """What to serve, and on what."""

    model: str  # as `asd score --model` takes it
    tracking: str | None
    device: str
    replicas: int
    max_seconds: float
    most_clips: int  # open at a time


class Scorer:
    """One replica: a model in memory. Wrapped by `serve.deployment` when it is deployed."""

    def __init__(self, plan: Plan, threads: int) -> None:
        import torch

        from orchestrator.serving.command import checked_device
        from orchestrator.serving.location import open_model
        from orchestrator.serving.web.scoring import ClipScorer

        self.core: ClipScorer | None = None
        self.fault = ""
        try:
            scorer = open_model(plan.model, plan.tracking).scorer(checked_device(plan.device))
            self.core = ClipScorer(scorer, plan.max_seconds)
        except UserError as error:
            self.fault = str(error)  # told by `facts`: a constructor that raises is tried again and again
        self.decoders = ThreadPoolExecutor(DECODERS, initializer=torch.set_num_threads, initargs=(1,))
        self.networks = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(threads,))
        self.ahead = asyncio.Semaphore(DECODED_AHEAD)
        self.batcher: Batcher[Heard, Result] = Batcher(self._judge, BATCH_CLIPS)

    async def facts(self) -> Model | str:
        """The model, or why there is none."""
        return self.core.model() if self.core else self.fault

    async def alive(self) -> bool:
        return self.core is not None

    async def __call__(self, clip: Clip) -> Result:
        assert self.core
        async with self.ahead:
            heard = await asyncio.get_running_loop().run_in_executor(self.decoders, self.core.hear, clip)
            return heard if isinstance(heard, Result) else await self.batcher(heard)

    async def _judge(self, clips: Sequence[Heard]) -> list[Result]:
        assert self.core
        return await asyncio.get_running_loop().run_in_executor(self.networks, self.core.judge, clips)


class RayBackend:
    """The replicas, seen from the door."""

    def __init__(self, handle: DeploymentHandle, model: Model) -> None:
        self.handle, self.model = handle, model

    async def score(self, clip: Clip) -> Result:
        return await self._ask(self.handle, clip)

    async def alive(self) -> bool:
        try:
            return bool(await asyncio.wait_for(self._ask(self.handle.alive), ALIVE_SECONDS))
        except (Unavailable, TimeoutError):
            return False

    async def _ask(self, method: Any, *arguments: object) -> Any:
        response = method.remote(*arguments)
        try:
            return await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        except (RayError, RayServeException) as error:
            raise Unavailable(first_line(error)) from error


@contextmanager
def ray_scorers(plan: Plan) -> Iterator[RayBackend]:
    """Replicas on the Ray that this process is connected to, for as long as the context lasts.

    UserError where the model cannot be opened or the cluster cannot hold the replicas.
    """
    cpus, gpus = _share(plan)
    name = f"asd-{uuid.uuid4().hex[:8]}"  # several may run on one cluster
    app: Any = serve.deployment(
        Scorer,
        name="scorer",
        num_replicas=plan.replicas,
        max_ongoing_requests=plan.most_clips,
        ray_actor_options={"num_cpus": cpus, "num_gpus": gpus, "runtime_env": {"env_vars": ALLOCATOR}},
        health_check_period_s=5,
        graceful_shutdown_timeout_s=5,
    )
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    serve.start(proxy_location="Disabled", logging_config={"log_level": "ERROR", "enable_access_log": False})
    try:
        handle = serve.run(app.bind(plan, max(1, int(cpus))), name=name, route_prefix=None)
        facts = handle.facts.remote().result(timeout_s=120)
        if isinstance(facts, str):
            raise UserError(facts)
        yield RayBackend(handle, facts)
    finally:
        serve.delete(name)  # and not shutdown: others may use Serve on this cluster, and a local Ray ends anyway


def _share(plan: Plan) -> tuple[int, float]:
    """CPUs and GPUs of a replica; ResourceError where the cluster has too few."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus, gpus = (int(sum(node.get(kind, 0) for node in nodes)) for kind in ("CPU", "GPU"))
    if cpus < plan.replicas:
        raise ResourceError(f"--replicas {plan.replicas}: Ray has {cpus} CPU(s), and each replica needs one")
    if plan.device.startswith("cuda") and not gpus:
        raise ResourceError(f"--device {plan.device}: Ray has no GPU; valid: auto, cpu")
    largest = int(max(node.get("CPU", 0) for node in nodes))
    share = 0.0 if plan.device == "cpu" else min(1.0, gpus / plan.replicas)
    return max(1, min(largest, cpus // plan.replicas)), share
