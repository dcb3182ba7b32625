"""Weights into networks without trust: no network is built that its file could not fill."""

import pickle
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from orchestrator.errors import first_line
from orchestrator.members import checkpoint_name
from orchestrator.serving.manifest import BundleError
from orchestrator.storage import Store

# What torch, numpy and ZIP raise for files that hold something else than they should.
ODD_FILE = (RuntimeError, pickle.UnpicklingError, zipfile.BadZipFile, LookupError, TypeError, ValueError, EOFError)


def check_size(home: Store, epochs: Sequence[int], build: Callable[[], nn.Module]) -> None:
    """BundleError where the recipe's network needs more bytes than a checkpoint's file has; built without memory."""
    with torch.device("meta"):
        network = build()
    needed = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
    for epoch in epochs:
        path = home.path(checkpoint_name(epoch))
        size = home.files.get_file_info(path).size
        if size is None:
            raise BundleError(f"{path} is missing; export the model again")
        if size < needed:
            raise BundleError(f"{path} has {size} bytes, the network of its recipe needs {needed}; refused")


@contextmanager
def explained(home: Store, epoch: int) -> Iterator[None]:
    """A file that does not hold what it should is the bundle's fault, not ours."""
    try:
        yield
    except OSError as error:
        raise BundleError(f"{home.root}: {error}; export the model again") from error
    except ODD_FILE as error:
        reason = first_line(error)
        raise BundleError(f"{home.root}, epoch {epoch}: not the weights of its recipe: {reason}") from error
