"""Losses of clips that may have several labels, also when two clips were mixed (paper eq. 3, 9 and 16).

Shapes: B clips, C classes.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Mix(NamedTuple):
    """How each clip of a batch was mixed: it keeps the share `keep_B` of itself, the rest is clip `partner_B`."""

    partner_B: Tensor  # int64
    keep_B: Tensor  # float32 in [0, 1]


def unmixed(clips: int) -> Mix:
    """The mix that leaves every clip as it is."""
    return Mix(torch.arange(clips), torch.ones(clips))


def smallest_loss(nll_BC: Tensor, labels_BC: Tensor) -> Tensor:
    """Eq. 16: the loss of the cheapest label in each clip's set: (B, C), bool (B, C) with at least one True -> (B,)."""
    return nll_BC.masked_fill(~labels_BC, torch.inf).amin(dim=1)


def mixed_loss(nll_BC: Tensor, labels_BC: Tensor, mix: Mix) -> Tensor:
    """The loss of mixed clips whose two origins have label sets: (B, C), bool (B, C) -> (B,).

    The loss is linear in the label vector, so the minimum over pairs of labels falls apart:
    min over (l_i, l_j) of L(k * l_i + (1 - k) * l_j) = k * min over l_i of L(l_i) + (1 - k) * min over l_j of L(l_j).
    """
    own_B = smallest_loss(nll_BC, labels_BC)
    partner_B = smallest_loss(nll_BC, labels_BC[mix.partner_B])
    return mix.keep_B * own_B + (1 - mix.keep_B) * partner_B
