"""Devices: what a person names, what they can do, what is sent there."""

import os

import torch
from torch import Tensor

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


def graphs_note(asked: bool, gpu: bool) -> str | None:
    """A sentence where `cluster.cuda_graphs` is set and does nothing."""
    return "cluster.cuda_graphs=true is not used: there is no GPU to train on" if asked and not gpu else None


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))
