"""Where the networks run in bfloat16: where it is faster than float32, which is not everywhere."""

from functools import cache

import torch

CPU_CAPABILITIES = ("amx_bf16", "avx512_bf16", "bf16")  # the last one is ARM's


def network_precision(kind: str, autocast: bool) -> torch.autocast:
    """The context in which a network runs on a kind of device, cpu or cuda.

    With `autocast` bfloat16 where the processor or GPU computes in it; elsewhere it is emulated, ten times slower
    than float32, which is used instead. Nothing is kept in autocast's cache: no weight is used twice, and CUDA graphs
    forbid it.
    """
    enabled = autocast and computes_bfloat16(kind)
    return torch.autocast(kind, dtype=torch.bfloat16, enabled=enabled, cache_enabled=False)


@cache
def computes_bfloat16(kind: str) -> bool:
    """Whether a kind of device, cpu or cuda, has instructions for bfloat16."""
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in CPU_CAPABILITIES)
