"""Triplet loss: a clip lies nearer to itself in noise than to another sound, by a margin (paper eq. 10-12).

Shapes: B clips, D embedding size.
"""

from torch import Tensor

TINY = 1e-12  # added under the root: the gradient of a distance of exactly 0 would not be finite


def triplet_loss(anchor_BD: Tensor, positive_BD: Tensor, negative_BD: Tensor, margin: float = 1.0) -> Tensor:
    """max(|anchor - positive| - |anchor - negative| + margin, 0), Euclidean: three (B, D) -> (B,), >= 0.

    Gradients flow into all three.
    """
    pull_B = ((anchor_BD - positive_BD).square().sum(dim=1) + TINY).sqrt()
    push_B = ((anchor_BD - negative_BD).square().sum(dim=1) + TINY).sqrt()
    return (pull_B - push_B + margin).clamp(min=0)
