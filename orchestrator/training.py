"""The one training loop: a member from its seed to its done-marker, resumable after every epoch, with or without Ray.

Shapes: A training clips, B clips of a batch, T samples, C classes.
"""

import hashlib
import io
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from models.augment.cutmix import apply_cutmix, draw_cutmix
from models.augment.mixup import apply_mixup, draw_mixup
from models.extractor import Extractor
from models.features import SAMPLE_RATE_HZ
from models.losses.featex import Exchange, draw_exchange
from models.losses.multi_label import Mix, unmixed
from models.losses.objective import Objective
from orchestrator.config import Augmentation, Recipe
from orchestrator.data.waves import WaveBank
from orchestrator.errors import TrainingError
from orchestrator.members import DONE, LAST, checkpoint_name
from orchestrator.storage import Store


class TrainingSet(NamedTuple):
    """Which clips of a bank are trained on, and which classes each may have."""

    bank: WaveBank
    rows_A: Tensor  # int64, rows of the bank
    labels_AC: Tensor  # bool, at least one True a row


def build_extractor(recipe: Recipe) -> Extractor:
    """An extractor with the weights that torch's current random state gives."""
    return Extractor(
        branches=[branch.as_branch() for branch in recipe.branches],
        clip_samples=clip_samples(recipe),
        embedding_dim=recipe.embedding_dim,
        autocast=recipe.precision == "bfloat16",
    )


def clip_samples(recipe: Recipe) -> int:
    """T: the length that every clip is brought to."""
    return round(recipe.clip_seconds * SAMPLE_RATE_HZ)


def train_member(
    *,
    recipe: Recipe,
    seed: int,
    data: TrainingSet,
    folder: Store,
    identity: dict[str, Any],
    on_step: Callable[[int, int], None] = lambda epoch, clips: None,
) -> list[dict[str, float]]:
    """Train (or go on training) one member into `folder`; returns one row of metrics per epoch.

    The batch order and every augmentation of an epoch follow from (seed, epoch) alone, so that a run that was killed
    repeats at most the epoch in flight and ends with the same weights. TrainingError where the loss is not finite.
    """
    if folder.exists(DONE):
        return list(folder.read_json(DONE)["history"])
    folder.write_json("config.json", identity)
    device = data.bank.device
    model, objective = _initial(recipe, seed, data.labels_AC.shape[1])
    model.to(device).train()
    objective.to(device).train()
    optimiser = torch.optim.AdamW(
        [p for part in (model, objective) for p in part.parameters()],
        lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        fused=True,
    )
    kept: dict[str, Any] = {"model": model, "objective": objective, "optimiser": optimiser}
    history = _resume(folder, kept, device)
    labels_AC = data.labels_AC.to(device)
    for epoch in range(len(history) + 1, recipe.epochs + 1):
        generator = torch.Generator().manual_seed(epoch_seed(seed, epoch))
        started, total, clips = time.perf_counter(), torch.zeros((), device=device), 0
        for pick_B in batches(len(data.rows_A), recipe.batch_size, generator):
            position = torch.rand(len(pick_B), generator=generator)
            wave_BT = data.bank.cut(data.rows_A[pick_B], clip_samples(recipe), position)
            wave_BT, mix = augment(wave_BT, recipe.augmentation, generator)
            exchange = _exchange(recipe, len(pick_B), generator, device)
            loss_B = objective(model(wave_BT), labels_AC[pick_B.to(device)], mix, exchange)
            optimiser.zero_grad(set_to_none=True)
            loss_B.mean().backward()
            optimiser.step()
            total += loss_B.detach().sum()
            clips += len(pick_B)
            on_step(epoch, clips)
        loss, seconds = float(total) / clips, time.perf_counter() - started
        if not torch.isfinite(total):
            raise TrainingError(
                f"{folder.root}: the loss of epoch {epoch} is not finite; lower recipe.learning_rate "
                f"(now {recipe.learning_rate}) or set recipe.precision=float32, then run again"
            )
        history.append({"epoch": epoch, "loss": loss, "seconds": seconds, "clips_per_second": clips / seconds})
        if epoch in recipe.checkpoints:
            folder.write(checkpoint_name(epoch), _to_bytes({"model": model.state_dict()}))
        folder.write(LAST, _to_bytes({"history": history, **{k: part.state_dict() for k, part in kept.items()}}))
        folder.write_json("progress.json", {"epoch": epoch})
    folder.write_json(DONE, {"history": history})
    return history


def augment(wave_BT: Tensor, augmentation: Augmentation, generator: torch.Generator) -> tuple[Tensor, Mix]:
    """Draw on the CPU (so that every device sees the same draws) and apply where the batch is."""
    clips, samples = wave_BT.shape
    device = wave_BT.device
    if augmentation.kind == "mixup":
        mix = _to(draw_mixup(clips, augmentation.chance(), generator), device)
        return apply_mixup(wave_BT, mix), mix
    if augmentation.kind == "cutmix":
        cut = draw_cutmix(clips, samples, augmentation.chance(), generator)
        cut = cut._replace(mix=_to(cut.mix, device), start_B=cut.start_B.to(device), length_B=cut.length_B.to(device))
        return apply_cutmix(wave_BT, cut), cut.mix
    return wave_BT, _to(unmixed(clips), device)


def batches(clips: int, batch_size: int, generator: torch.Generator) -> Sequence[Tensor]:
    """A random order cut into batches; the short last one is kept, but a single left-over clip joins the one before.

    Batch normalisation has no statistics of a single clip; for the same reason a training set of one clip is refused.
    """
    if clips < 2:
        raise TrainingError(f"{clips} training clip(s): batch normalisation needs at least 2 in all machines together")
    parts = list(torch.randperm(clips, generator=generator).split(batch_size))
    if len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def epoch_seed(seed: int, epoch: int) -> int:
    """A 63-bit seed for one epoch of one member."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{epoch}".encode()).digest()[:8]) >> 1


def load_checkpoint(folder: Store, recipe: Recipe, epoch: int, device: torch.device | str = "cpu") -> Extractor:
    """The extractor as it was after an epoch, in evaluation mode."""
    model = build_extractor(recipe)
    state = torch.load(io.BytesIO(folder.read(checkpoint_name(epoch))), map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"])
    return model.to(device).eval()


def _initial(recipe: Recipe, seed: int, classes: int) -> tuple[Extractor, Objective]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_extractor(recipe)
        objective = Objective(
            classes=classes,
            branches=len(recipe.branches),
            embedding_dim=recipe.embedding_dim,
            sub_clusters=recipe.sub_clusters,
            auxiliary=recipe.auxiliary_loss,
            adaptive_scale=recipe.adaptive_scale,
        )
    return model, objective


def _exchange(recipe: Recipe, clips: int, generator: torch.Generator, device: torch.device) -> Exchange | None:
    if recipe.auxiliary_loss != "featex":
        return None
    return _to(draw_exchange(clips, len(recipe.branches), recipe.featex_probability, generator), device)


def _to(drawn: Any, device: torch.device) -> Any:
    """A named tuple of tensors on another device."""
    return type(drawn)(*(tensor.to(device) for tensor in drawn))


def _resume(folder: Store, kept: dict[str, Any], device: torch.device) -> list[dict[str, float]]:
    if not folder.exists(LAST):
        return []
    state = torch.load(io.BytesIO(folder.read(LAST)), map_location=device, weights_only=True)
    for name, part in kept.items():
        part.load_state_dict(state[name])
    return list(state["history"])


def _to_bytes(state: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()
