"""torch's optimisers without its compiler: importing that takes a second of every process, and nothing here uses it."""

import inspect
from typing import TypeVar, cast

import torch

Optimiser = TypeVar("Optimiser", bound=torch.optim.Optimizer)

COMPILER_AWARE = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")  # wrapped so that it skips them


def without_compiler(kind: type[Optimiser]) -> type[Optimiser]:
    """The same optimiser, its methods as they are inside the wrappers that import the compiler when called."""
    methods = {name: inspect.unwrap(getattr(kind, name)) for name in COMPILER_AWARE}
    step = torch.no_grad()(inspect.unwrap(kind.step))
    return cast(type[Optimiser], type(kind.__name__, (kind,), methods | {"step": step}))


Adam, AdamW = without_compiler(torch.optim.Adam), without_compiler(torch.optim.AdamW)
