"""Decoded recordings as flat int16 arrays, one a machine. Decoding processes need this, and never torch."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Part(NamedTuple):
    """The clips of one machine end to end: clip k is samples[offsets[k]:offsets[k + 1]]."""

    samples: NDArray[np.int16]
    offsets: NDArray[np.int64]


def pack(clips: Sequence[NDArray[np.int16]]) -> Part:
    """Put clips end to end."""
    offsets = np.cumsum([0, *map(len, clips)], dtype=np.int64)
    return Part(np.concatenate([np.empty(0, np.int16), *clips]), offsets)
