"""CUDA graphs: the networks' forward and backward pass of a full batch, recorded once and replayed as a whole.

Shapes: B clips, T samples, M branches, D embedding size of one branch.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from models.extractor import Extractor
from orchestrator.errors import TrainingError, first_line

Capture = Callable[[nn.Module, tuple[Tensor, ...]], Callable[..., Tensor]]


def record(module: nn.Module, inputs: tuple[Tensor, ...]) -> Callable[..., Tensor]:
    """The module's passes over such inputs as graphs, after three passes to warm up."""
    recorded: Callable[..., Tensor] = torch.cuda.make_graphed_callables(module, inputs)  # type: ignore[assignment]
    return recorded


class Networks(nn.Module):
    """An extractor's networks as one function of tensors; a graph takes over a module's `forward`, so not its own."""

    def __init__(self, model: Extractor) -> None:
        super().__init__()
        self.networks = model.networks
        self.embed: Callable[[Sequence[Tensor]], Tensor] = model.embed

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.embed(inputs)


class Graphed:
    """An extractor in training whose full batches are replayed: (B, T) -> (B, M, D); all others run as always.

    The model stays as it is: the same weights, statistics and names in checkpoints. It must be where it is trained, and
    keep its parameters' memory from then on. Nothing else may use the GPU in this process while it is recorded. The
    outputs lie in the graph's memory until the next call. TrainingError where a network cannot be recorded.
    """

    def __init__(self, model: Extractor, clips: int, samples: int, capture: Capture = record) -> None:
        self.model, self.clips = model, clips
        silence_BT = torch.zeros(clips, samples, device=next(model.parameters()).device)
        with _unchanged(model.networks, silence_BT.device):
            try:
                self.replay = capture(Networks(model), tuple(feature(silence_BT) for feature in model.features))
            except RuntimeError as error:
                raise TrainingError(
                    f"CUDA graphs cannot record the networks: {first_line(error)}; set cluster.cuda_graphs=false"
                ) from error

    def __call__(self, wave_BT: Tensor) -> Tensor:
        if len(wave_BT) != self.clips or not self.model.training:
            embed_BMD: Tensor = self.model(wave_BT)
            return embed_BMD
        return self.replay(*(feature(wave_BT) for feature in self.model.features))


@contextmanager
def _unchanged(networks: nn.Module, device: torch.device) -> Iterator[None]:
    """Undo what the passes before a recording leave: running statistics, and the state of chance."""
    before: list[Any] = [buffer.clone() for buffer in networks.buffers()]
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
    with torch.no_grad():
        for buffer, kept in zip(networks.buffers(), before, strict=True):
            buffer.copy_(kept)
