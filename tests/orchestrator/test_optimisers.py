"""Optimisers without torch's compiler: the same steps, and no import of it."""

import subprocess
import sys

import pytest
import torch

from orchestrator.optimisers import Adam, AdamW

WITHOUT = """
import sys, torch
from orchestrator.optimisers import {kind}
layer = torch.nn.Linear(3, 3)
optimiser = {kind}(layer.parameters(), lr=0.1, fused=True)
layer(torch.ones(2, 3)).sum().backward()
optimiser.step()
optimiser.zero_grad(set_to_none=True)
optimiser.load_state_dict(optimiser.state_dict())
sys.exit("torch._dynamo" in sys.modules)
"""


@pytest.mark.parametrize(("ours", "theirs"), [(Adam, torch.optim.Adam), (AdamW, torch.optim.AdamW)])
def test_steps_are_torchs(ours: type, theirs: type) -> None:
    seen = []
    for kind in (ours, theirs):
        torch.manual_seed(0)
        layer = torch.nn.Linear(4, 4)
        first = kind(layer.parameters(), lr=0.1, weight_decay=0.1, fused=True)
        second = kind(layer.parameters(), lr=0.5, fused=True)  # of a run that goes on: takes everything over
        for optimiser in (first, first, second, second):
            if optimiser is second:
                second.load_state_dict(first.state_dict())
            optimiser.zero_grad()
            layer(torch.arange(8.0).view(2, 4)).square().sum().backward()
            optimiser.step()
        seen.append(torch.cat([p.detach().flatten() for p in layer.parameters()]))
    assert torch.equal(*seen)


@pytest.mark.parametrize("kind", ["Adam", "AdamW"])
def test_the_compiler_is_not_imported(kind: str) -> None:
    assert subprocess.run([sys.executable, "-c", WITHOUT.format(kind=kind)]).returncode == 0
