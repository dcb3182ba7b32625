"""What a benchmark process does: train or embed for a while, the fast way or the common one. Needs no Ray.

Shapes: A clips, B clips of a batch, T samples.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from orchestrator.bench.memory import pss_mib
from orchestrator.bench.plain import loader_losses, make_loader, make_plain, plain_optimiser
from orchestrator.data.packing import pack
from orchestrator.data.waves import WaveBank
from orchestrator.errors import ResourceError
from orchestrator.recipes import ExtractorRecipe
from orchestrator.trainees.encoder import batch_clips
from orchestrator.trainees.extractor import ExtractorTrainee, TrainingSet, clip_samples, embed_by_each

CLASSES = 148  # of DCASE 2024
CHECKPOINTS = 3
WARM_UP_STEPS = 5  # of a GPU: libraries choose their algorithms in the first ones
STEPS_UNSEEN = 8  # of a GPU: waiting for it after every step would let it run dry


class Task(NamedTuple):
    """One measurement."""

    what: str  # train or infer
    plain: bool  # the network as commonly written, or the farm's default
    clip_seconds: float = 10.0
    batch: int = 64
    clips: int = 256
    seconds: float = 20.0  # how long at least
    threads: int = 1
    device: str = "cpu"
    way: str = ""  # loader, streamed (not resident on the GPU), graphs, compile; or from a bank as the farm does
    workers: int = 0  # of a loader


class Rate(NamedTuple):
    """What came out of it; inference counts a clip once for each of three checkpoints."""

    clips: int
    seconds: float
    memory_mib: float  # PSS of the process, or the most that torch held on a GPU
    start_seconds: float  # clips, network and first steps; what is compiled or recorded is in it


def perform(task: Task, ready: Callable[[], None] = lambda: None) -> Rate:
    """Measure after the first steps; `ready` is called, and waited for, before."""
    torch.set_num_threads(task.threads)
    on_gpu = task.device != "cpu"
    began = time.perf_counter()
    steps = {"train": training_steps, "infer": inference_steps}[task.what](task)
    for _ in range(WARM_UP_STEPS if on_gpu else 1):
        next(steps)
    _wait(task.device)
    start_seconds = time.perf_counter() - began
    ready()
    began, clips = time.perf_counter(), 0
    for number, done in enumerate(steps, 1):
        clips += done
        if on_gpu and number % STEPS_UNSEEN:
            continue
        _wait(task.device)
        if time.perf_counter() - began >= task.seconds:
            break
    return Rate(clips, time.perf_counter() - began, memory_mib(task.device), start_seconds)


def training_steps(task: Task) -> Iterator[int]:
    """Train for ever; yields the clips of each step."""
    recipe, trainee, bank = make_trainee(task)
    optimiser = plain_optimiser(trainee, recipe) if task.plain else trainee.optimiser()
    generator = torch.Generator().manual_seed(0)
    epoch: Callable[[], Iterator[tuple[Tensor, float]]] = partial(trainee.losses, generator)
    if task.way == "loader":
        loader = make_loader(bank, clip_samples(recipe), task.batch, task.workers, task.device, shuffle=True)
        epoch = partial(loader_losses, trainee, loader, torch.device(task.device), generator)
    while True:
        for loss_B, clips in epoch():
            optimiser.zero_grad(set_to_none=True)
            loss_B.mean().backward()
            optimiser.step()
            yield int(clips)


def inference_steps(task: Task) -> Iterator[int]:
    """Embed for ever with three checkpoints; yields clips times checkpoints of each step.

    The common way goes through the whole network for each, in batches as in training.
    """
    recipe, trainee, bank = make_trainee(task)
    models = [trainee.model.eval() for _ in range(CHECKPOINTS)]
    with torch.inference_mode():
        for wave_BT in _waves(task, recipe, bank):
            if task.plain:
                _ = [model(wave_BT).cpu() for model in models]
            else:
                embed_by_each(models, wave_BT)
            yield CHECKPOINTS * len(wave_BT)


def _waves(task: Task, recipe: ExtractorRecipe, bank: WaveBank) -> Iterator[Tensor]:
    """All clips again and again, where the network is."""
    device, samples = torch.device(task.device), clip_samples(recipe)
    batch = task.batch if task.plain else batch_clips(device)
    if task.way == "loader":
        loader = make_loader(bank, samples, batch, task.workers, task.device, shuffle=False)
        while True:
            yield from (fed_BT.to(device, non_blocking=True) for fed_BT, _ in loader)
    while True:
        yield from (bank.cut(rows, samples) for rows in torch.arange(len(bank)).split(batch))


def make_trainee(task: Task) -> tuple[ExtractorRecipe, ExtractorTrainee, WaveBank]:
    """The paper's network on noise, with seed 0; what the clips hold changes no time."""
    recipe = ExtractorRecipe(
        clip_seconds=task.clip_seconds,
        batch_size=task.batch,
        epochs=1,
        checkpoints=(1,),
        precision="float32" if task.plain else "bfloat16",
    )
    rng = np.random.default_rng(0)
    noise = [rng.integers(-9000, 9000, clip_samples(recipe), np.int16) for _ in range(task.clips)]
    share = {"resident_share": 0.0} if task.way == "streamed" else {}
    bank = WaveBank([pack(noise)], "cpu" if task.way == "loader" else task.device, **share)
    if bank.device.type == "cuda" and bank.resident is None and task.way != "streamed":
        raise ResourceError(f"{task.clips} clips do not fit on the GPU; try fewer --clips")
    labels_AC = torch.zeros(task.clips, CLASSES, dtype=torch.bool)
    labels_AC[torch.arange(task.clips), torch.arange(task.clips) % CLASSES] = True
    data = TrainingSet(bank, torch.arange(task.clips), labels_AC)
    trainee = ExtractorTrainee(recipe, 0, data, cuda_graphs=task.way == "graphs")
    if task.plain:
        make_plain(trainee)
    for module in trainee.modules.values():
        module.to(task.device).train()
    if task.way == "compile":
        trainee.compute = torch.compile(trainee.model)
    return recipe, trainee, bank


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize(device)


def memory_mib(device: str) -> float:
    """What this process holds now (PSS), or the most that it held on a GPU."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return pss_mib()
