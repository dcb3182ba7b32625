"""The one training loop: a member from seed to done-marker, resumable after every epoch, with or without Ray."""

import hashlib
import io
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from orchestrator.devices import computed_by, sent
from orchestrator.errors import TrainingError
from orchestrator.members import DONE, LAST, PROGRESS, checkpoint_name
from orchestrator.recipes import Recipe
from orchestrator.storage import Store


class Trainee(Protocol):
    """What the loop trains. Batch order and every random draw of an epoch come from the generator alone."""

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """All that is kept from epoch to epoch; "model" is what checkpoints hold."""
        ...

    def optimiser(self) -> torch.optim.Optimizer: ...

    def losses(self, generator: torch.Generator) -> Iterator[tuple[Tensor, float]]:
        """The losses (B,) of each batch of one epoch, and how many clips that batch stands for."""
        ...


def train_member(
    *,
    trainee: Callable[[], Trainee],
    recipe: Recipe,
    seed: int,
    folder: Store,
    identity: dict[str, Any],
    device: torch.device | str = "cpu",
    on_step: Callable[[int, float], None] = lambda epoch, clips: None,
) -> list[dict[str, float]]:
    """Train (or go on training) one member into `folder`; returns one row of metrics per epoch.

    `trainee` builds the networks as they are before the first epoch; it is not called for a finished member. Each epoch
    is written while the next one is trained. A run that was killed repeats the epoch in flight, and the one before if
    it was not written yet, and ends with the same weights. TrainingError where the loss is not finite.
    """
    if folder.exists(DONE):
        return list(folder.read_json(DONE)["history"])
    folder.write_json("config.json", identity)
    with _Writer(folder) as writer:
        history = _train(trainee(), recipe, seed, folder, device, writer, on_step)
    made_on = computed_by(device, getattr(recipe, "precision", "float32"))  # autoencoders name none
    folder.write_json(DONE, {"history": history, "made_on": made_on})
    return history


def _train(
    learner: Trainee,
    recipe: Recipe,
    seed: int,
    folder: Store,
    device: torch.device | str,
    writer: "_Writer",
    on_step: Callable[[int, float], None],
) -> list[dict[str, float]]:
    for module in learner.modules.values():
        module.to(device).train()
    optimiser = learner.optimiser()
    kept: dict[str, Any] = {**learner.modules, "optimiser": optimiser}
    history = _resume(folder, kept, device)
    for epoch in range(len(history) + 1, recipe.epochs + 1):
        generator = torch.Generator().manual_seed(epoch_seed(seed, epoch))
        started, total, terms, clips = time.perf_counter(), torch.zeros((), device=device), 0, 0.0
        for loss_B, clips_B in learner.losses(generator):
            optimiser.zero_grad(set_to_none=True)
            loss_B.mean().backward()
            optimiser.step()
            total += loss_B.detach().sum()
            terms += len(loss_B)
            clips += clips_B
            on_step(epoch, clips)
        loss, seconds = float(total) / terms, time.perf_counter() - started
        if not torch.isfinite(total):
            raise TrainingError(
                f"{folder.root}: the loss of epoch {epoch} is not finite; lower learning_rate (now "
                f"{recipe.learning_rate}) or set precision=float32 in the recipe, then run again"
            )
        history.append({"epoch": epoch, "loss": loss, "seconds": seconds, "clips_per_second": clips / seconds})
        files: dict[str, Any] = {}
        if epoch in recipe.checkpoints:
            files[checkpoint_name(epoch)] = _copy({"model": learner.modules["model"].state_dict()})
        if epoch < recipe.epochs:
            files[LAST] = _copy({"history": history, **{k: part.state_dict() for k, part in kept.items()}})
        writer.write(files, epoch)
    return history


class _Writer(AbstractContextManager["_Writer"]):
    """Writes what one epoch left while the next is trained; StorageError when the next is over, or at the end."""

    def __init__(self, folder: Store) -> None:
        self.folder = folder
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self.pending: Future[None] | None = None

    def write(self, files: Mapping[str, Any], epoch: int) -> None:
        """Begin to write states, in their order, when the ones before are written."""
        self._wait()
        self.pending = self.pool.submit(self._write, files, epoch)

    def _write(self, files: Mapping[str, Any], epoch: int) -> None:
        for name, state in files.items():
            self.folder.write_by(name, partial(torch.save, state))
        if LAST in files:
            self.folder.write_json(PROGRESS, {"epoch": epoch})

    def _wait(self) -> None:
        pending, self.pending = self.pending, None
        if pending is not None:
            pending.result()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self.pool.shutdown(wait=True)
        if kind is None:
            self._wait()


def batches(items: int, batch_size: int, generator: torch.Generator) -> Sequence[Tensor]:
    """A random order cut into batches; the short last one is kept, but a single left-over item joins the one before.

    Batch normalisation has no statistics of a single item; for the same reason a training set of one is refused.
    """
    if items < 2:
        raise TrainingError(f"{items} training clip(s): batch normalisation needs at least 2")
    parts = list(torch.randperm(items, generator=generator).split(batch_size))
    if len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def epoch_seed(seed: int, epoch: int) -> int:
    """A 63-bit seed for one epoch of one member."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{epoch}".encode()).digest()[:8]) >> 1


def load_weights(model: nn.Module, folder: Store, epoch: int, device: torch.device | str = "cpu") -> None:
    """Give a network the weights that it had after an epoch, in evaluation mode."""
    state = torch.load(io.BytesIO(folder.read(checkpoint_name(epoch))), map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"])
    model.to(device).eval()


def to_device(drawn: Any, device: torch.device) -> Any:
    """Named tuples of tensors, drawn on the CPU so that every device sees the same draws, where the batch is."""
    return type(drawn)(*(to_device(one, device) if isinstance(one, tuple) else sent(one, device) for one in drawn))


def _resume(folder: Store, kept: dict[str, Any], device: torch.device | str) -> list[dict[str, float]]:
    if not folder.exists(LAST):
        return []
    state = torch.load(io.BytesIO(folder.read(LAST)), map_location=device, weights_only=True)
    for name, part in kept.items():
        part.load_state_dict(state[name])
    return list(state["history"])


def _copy(state: Any) -> Any:
    """A state as it is now, on the CPU; the next epoch changes the tensors that it was made of."""
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, Mapping):
        return {name: _copy(part) for name, part in state.items()}
    return [_copy(part) for part in state] if isinstance(state, list) else state
