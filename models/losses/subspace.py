"""Subspace loss: each branch alone must recognise the class (paper §3.1.2, eq. 7).

Shapes: B clips, M branches, D embedding size, C classes.
"""

import torch
from torch import Tensor, nn

from models.losses.sub_cluster_adacos import SubClusterAdaCos


class SubspaceLoss(nn.Module):
    """Sum over branches of the negative log-probabilities: (B, M, D) -> (B, C); trainable centres per branch."""

    def __init__(
        self,
        *,
        classes: int,
        branches: int,
        embedding_dim: int,
        sub_clusters: int = 16,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.heads = nn.ModuleList(
            SubClusterAdaCos(
                classes=classes,
                embedding_dim=embedding_dim,
                sub_clusters=sub_clusters,
                trainable=True,
                generator=generator,
            )
            for _ in range(branches)
        )

    def forward(self, embed_BMD: Tensor) -> Tensor:
        return torch.stack([head(embed_BMD[:, m]) for m, head in enumerate(self.heads)]).sum(dim=0)
