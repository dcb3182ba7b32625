"""FeatEx: recognise whose branches were put together (paper §2.2.3, eq. 4-6, reference [9]).

Shapes: B clips, M branches, D embedding size, C classes.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.losses.sub_cluster_adacos import SubClusterAdaCos


class Exchange(NamedTuple):
    """Which clip each branch of an exchanged embedding comes from; drawn once per batch."""

    source_BM: Tensor  # int64; source_BM[:, 0] is the clip itself
    exchanged_B: Tensor  # bool; False keeps the clip as it is


def draw_exchange(clips: int, branches: int, probability: float, generator: torch.Generator) -> Exchange:
    """Draw a partner permutation for every branch but the first, and whether each clip takes part."""
    own = torch.arange(clips)
    partners = [torch.randperm(clips, generator=generator) for _ in range(branches - 1)]
    exchanged = torch.rand(clips, generator=generator) < probability
    return Exchange(torch.stack([own, *partners], dim=1), exchanged)


class FeatEx(nn.Module):
    """Negative log-probabilities over (M + 1) * C classes: M blocks "branch m is from class c", and one "untouched".

    `forward` gives (B, M, C): entry [b, m, c] is what clip `source_BM[b, m]` having class c costs clip b. An exchanged
    clip weighs its M branches 1 / M each (0.5 in eq. 6); an untouched clip has the first block's figure at m = 0 and
    zeros elsewhere, as eq. 6 is used with probability 0.5 in [9].
    """

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
        self.head = SubClusterAdaCos(
            classes=(branches + 1) * classes,
            embedding_dim=branches * embedding_dim,
            sub_clusters=sub_clusters,
            trainable=True,
            generator=generator,
        )

    def forward(self, embed_BMD: Tensor, exchange: Exchange) -> Tensor:
        clips, branches, _ = embed_BMD.shape
        source_BM = torch.where(exchange.exchanged_B[:, None], exchange.source_BM, exchange.source_BM[:, :1])
        mixed_BMD = embed_BMD[source_BM, torch.arange(branches, device=embed_BMD.device)]
        nll = self.head(mixed_BMD.flatten(1)).view(clips, branches + 1, -1)
        untouched = torch.zeros_like(nll[:, 1:])
        untouched[:, 0] = nll[:, 0]
        return torch.where(exchange.exchanged_B[:, None, None], nll[:, 1:] / branches, untouched)
