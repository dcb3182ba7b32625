"""Devices: what a person names, what they can do, what is sent there."""

import os

import torch
from torch import Tensor

from models.precision import computes_bfloat16
from orchestrator.errors import ResourceError, first_line


def check_device(device: str, valid: str = "cpu, cuda, cuda:N") -> None:
    """ResourceError where the device is not there."""
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ResourceError(f"--device {device}: {first_line(error)}; valid: {valid}") from error


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor where the device can use it.

    From pinned memory to a GPU: else the host waits until the GPU has done all that it was told before.
    """
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def computed_by(device: torch.device | str, precision: str) -> dict[str, str | int]:
    """What decides last digits beside a member's identity: the kind of device, this process's threads, the precision.

    Networks of a recipe with `precision` bfloat16 run in it where the device has it.
    """
    kind = torch.device(device).type
    half = precision == "bfloat16" and computes_bfloat16(kind)
    return {"device": kind, "threads": torch.get_num_threads(), "networks": "bfloat16" if half else "float32"}


def graphs_note(asked: bool, gpu: bool) -> str | None:
    """A sentence where `cluster.cuda_graphs` is set and does nothing."""
    return "cluster.cuda_graphs=true is not used: there is no GPU to train on" if asked and not gpu else None


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))
