"""Devices that a person names."""

import os

import torch

from orchestrator.errors import ResourceError, first_line


def check_device(device: str, valid: str = "cpu, cuda, cuda:N") -> None:
    """ResourceError where the device is not there."""
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ResourceError(f"--device {device}: {first_line(error)}; valid: {valid}") from error


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))
