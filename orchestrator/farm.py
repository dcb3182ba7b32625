"""The farm: Ray Train workers are slots, and each slot trains and scores one member after another from a queue."""

import gc
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import ray
import ray.train
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.collective import broadcast_from_rank_zero
from ray.train.torch import get_device
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.data.waves import WaveBank
from orchestrator.errors import UserError, first_line
from orchestrator.local_train import LocalTrainer
from orchestrator.member_queue import MemberQueue, Status, Ticket
from orchestrator.members import Member
from orchestrator.runtime import Slots
from orchestrator.work import Work, work_on

REPORT_EVERY_SECONDS = 0.5
RESIZE_EVERY_SECONDS = 20.0  # nodes that joined are used then; every slot begins its epoch again


class Reporter:
    """Tells the queue what a slot does, at most twice a second and without waiting."""

    def __init__(self, queue: Any, slot: int, member: Member) -> None:
        self.queue, self.slot, self.member = queue, slot, member
        self.clips, self.sent = 0.0, 0.0

    def __call__(self, stage: str, clips: float) -> None:
        self.clips += clips
        if time.monotonic() - self.sent < REPORT_EVERY_SECONDS:
            return
        doing = {"member": self.member.title, "stage": stage}
        self.queue.progress.remote(self.slot, doing, self.clips)
        self.clips, self.sent = 0.0, time.monotonic()


def _slot(config: dict[str, Any]) -> None:
    """The life of one Ray Train worker."""
    torch.set_num_threads(config["threads"])
    gc.freeze()  # half a million objects of imports, which every collection between members would look at for 0.2 s
    queue, slot = config["queue"], ray.train.get_context().get_world_rank()
    generation = broadcast_from_rank_zero(uuid.uuid4().hex)
    work: Work = ray.get(config["work"])
    bank = WaveBank(ray.get(list(work.parts)), get_device() if config["gpu"] else "cpu")
    while True:
        ticket: Ticket | None = ray.get(queue.take.remote(generation, slot))
        if ticket is None:
            return
        member: Member = ray.cloudpickle.loads(ticket.member)
        try:
            work_on(member, work, bank, Reporter(queue, slot, member))
        except UserError as error:  # a full disk, a loss that is not finite: the other members may still go on
            ray.get(queue.done.remote(slot, str(error)))
        else:
            ray.get(queue.done.remote(slot))


def run_farm(
    members: Sequence[Member],
    work: Work,
    slots: Slots,
    *,
    max_failures: int,
    on_status: Callable[[Status], None] = lambda status: None,
) -> Status:
    """Train and score all members; returns when every one is finished or failed.

    `on_status` is called from a thread about twice a second. UserError where slots die more often than allowed.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    tickets = [Ticket(m.hash, m.title, ray.cloudpickle.dumps(m)) for m in members]
    queue = MemberQueue.options(scheduling_strategy=here).remote(tickets)  # type: ignore[attr-defined]
    number: dict[str, Any] = {"num_workers": slots.number}
    if slots.most:
        number = {"num_workers": (1, slots.most), "elastic_resize_monitor_interval_s": RESIZE_EVERY_SECONDS}
    # No TorchTrainer: slots exchange no gradients, and its controller would import torch before the slots may start.
    trainer = (DataParallelTrainer if slots.most else LocalTrainer)(
        _slot,
        train_loop_config={"queue": queue, "work": ray.put(work), "threads": slots.threads, "gpu": slots.gpus > 0},
        scaling_config=ScalingConfig(
            **number,
            use_gpu=slots.gpus > 0,
            resources_per_worker={"CPU": slots.cpus, **({"GPU": slots.gpus} if slots.gpus else {})},
        ),
        run_config=RunConfig(
            name=f"farm-{uuid.uuid4().hex[:12]}",
            storage_path=work.study.child("ray_train").root,
            storage_filesystem=None if work.study.is_local else work.study.files,
            failure_config=FailureConfig(max_failures=max_failures),
        ),
    )
    ended = threading.Event()
    watcher = threading.Thread(target=_watch, args=(queue, ended, on_status), daemon=True)
    watcher.start()
    try:
        trainer.fit()
        return ray.get(queue.status.remote())
    except ray.train.TrainingFailedError as error:
        raise UserError(_autopsy(error, max_failures)) from error
    except ray.exceptions.RayActorError as error:  # not a slot: the controller of Ray Train, or the queue
        raise UserError(
            f"a process that leads the slots died ({first_line(error)}). Finished members are kept: run the same "
            "command again, it goes on"
        ) from error
    finally:
        ended.set()
        watcher.join()


def _watch(queue: Any, ended: threading.Event, on_status: Callable[[Status], None]) -> None:
    with suppress(ray.exceptions.RayActorError):  # the farm itself says that its queue died
        while not ended.wait(REPORT_EVERY_SECONDS):
            on_status(ray.get(queue.status.remote()))
        on_status(ray.get(queue.status.remote()))


def _autopsy(error: Exception, max_failures: int) -> str:
    last = str(error.__cause__ or error).strip().splitlines()
    return (
        f"slots died more than cluster.max_failures={max_failures} times. Last reason: {last[-1] if last else '?'}. "
        "Finished members are kept: fix the cause (out of memory? lower recipe.batch_size or cluster.slots) "
        "and run the same command again"
    )
