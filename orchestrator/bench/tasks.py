"""What a benchmark process does: train or embed for a while, the fast way or the common one. Needs no Ray.

Shapes: A clips, B clips of a batch, T samples.
"""

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from models.plain import PlainExtractor
from orchestrator.bench.memory import pss_mib
from orchestrator.data.packing import pack
from orchestrator.data.waves import WaveBank
from orchestrator.recipes import ExtractorRecipe
from orchestrator.scoring import BATCH_CLIPS
from orchestrator.trainees.extractor import (
    ExtractorTrainee,
    TrainingSet,
    build_extractor,
    clip_samples,
    embed_by_each,
)

CLASSES = 148  # of DCASE 2024
CHECKPOINTS = 3


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


class Rate(NamedTuple):
    """What came out of it; inference counts a clip once for each of three checkpoints."""

    clips: int
    seconds: float
    memory_mib: float  # PSS of the process, or the most that a GPU held


def perform(task: Task) -> Rate:
    """Measure after one warm-up step."""
    torch.set_num_threads(task.threads)
    steps = {"train": training_steps, "infer": inference_steps}[task.what](task)
    next(steps)
    _wait(task.device)
    began, clips = time.perf_counter(), 0
    for done in steps:
        clips += done
        _wait(task.device)
        if time.perf_counter() - began >= task.seconds:
            break
    return Rate(clips, time.perf_counter() - began, memory_mib(task.device))


def training_steps(task: Task) -> Iterator[int]:
    """Train for ever; yields the clips of each step."""
    recipe, trainee, _ = make_trainee(task)
    optimiser = plain_optimiser(trainee, recipe) if task.plain else trainee.optimiser()
    generator = torch.Generator().manual_seed(0)
    while True:
        for loss_B, clips in trainee.losses(generator):
            optimiser.zero_grad(set_to_none=True)
            loss_B.mean().backward()
            optimiser.step()
            yield int(clips)


def plain_optimiser(trainee: ExtractorTrainee, recipe: ExtractorRecipe) -> torch.optim.Optimizer:
    """AdamW with the defaults of torch."""
    parameters = [p for module in trainee.modules.values() for p in module.parameters()]
    return torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)


def inference_steps(task: Task) -> Iterator[int]:
    """Embed for ever with three checkpoints; yields clips times checkpoints of each step.

    The common way goes through the whole network for each, in batches as in training.
    """
    recipe, trainee, bank = make_trainee(task)
    batch = task.batch if task.plain or task.device != "cpu" else BATCH_CLIPS
    models = [trainee.model.eval() for _ in range(CHECKPOINTS)]
    embed: Callable[[Tensor], object] = (
        (lambda wave_BT: [model(wave_BT) for model in models])
        if task.plain
        else (lambda wave_BT: embed_by_each(models, wave_BT))
    )
    with torch.inference_mode():
        while True:
            for rows in torch.arange(len(bank)).split(batch):
                embed(bank.cut(rows, clip_samples(recipe)))
                yield CHECKPOINTS * len(rows)


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
    noise = [rng.integers(-9000, 9000, clip_samples(recipe)).astype(np.int16) for _ in range(task.clips)]
    bank = WaveBank([pack(noise)], task.device)
    labels_AC = torch.zeros(task.clips, CLASSES, dtype=torch.bool)
    labels_AC[torch.arange(task.clips), torch.arange(task.clips) % CLASSES] = True
    trainee = ExtractorTrainee(recipe, 0, TrainingSet(bank, torch.arange(task.clips), labels_AC))
    if task.plain:
        make_plain(trainee)
    for module in trainee.modules.values():
        module.to(task.device).train()
    return recipe, trainee, bank


def make_plain(trainee: ExtractorTrainee) -> None:
    """Give a trainee the network as commonly written, with the weights that it has."""
    fast = trainee.model
    model = build_extractor(trainee.recipe.model_copy(update={"precision": "float32"}), PlainExtractor)
    model.load_state_dict(fast.state_dict())
    trainee.model = trainee.modules["model"] = model


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize(device)


def memory_mib(device: str) -> float:
    """What this process holds now (PSS), or the most that it held on a GPU."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return pss_mib()
