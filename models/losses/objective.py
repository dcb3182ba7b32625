"""The whole training loss of an extractor: fixed centres on z_cat plus subspace loss or FeatEx (paper eq. 4 and 7).

Shapes: B clips, M branches, D embedding size, C classes.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from models.losses.featex import Exchange, FeatEx
from models.losses.multi_label import Mix, mixed_loss, smallest_loss
from models.losses.sub_cluster_adacos import SubClusterAdaCos
from models.losses.subspace import SubspaceLoss

AUXILIARY: dict[str, Callable[..., nn.Module]] = {"subspace": SubspaceLoss, "featex": FeatEx}


class Objective(nn.Module):
    """Loss per clip: embeddings (B, M, D), label sets bool (B, C) and how the clips were mixed -> (B,), >= 0.

    Where a clip has several labels, one is chosen for all heads together (spec §5). FeatEx needs an `exchange`.
    """

    def __init__(
        self,
        *,
        classes: int,
        branches: int,
        embedding_dim: int,
        sub_clusters: int = 16,
        auxiliary: Literal["subspace", "featex", "none"],
        adaptive_scale: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.adaptive_scale = adaptive_scale
        self.joint = SubClusterAdaCos(
            classes=classes,
            embedding_dim=branches * embedding_dim,
            sub_clusters=sub_clusters,
            trainable=False,
            generator=generator,
        )
        build = AUXILIARY.get(auxiliary)
        head = build and build(
            classes=classes,
            branches=branches,
            embedding_dim=embedding_dim,
            sub_clusters=sub_clusters,
            generator=generator,
        )
        self.featex = head if isinstance(head, FeatEx) else None
        self.subspace = head if self.featex is None else None  # or any other loss (B, M, D) -> (B, C) of AUXILIARY

    def forward(self, embed_BMD: Tensor, labels_BC: Tensor, mix: Mix, exchange: Exchange | None = None) -> Tensor:
        if self.adaptive_scale and self.training:
            self._adapt(embed_BMD, labels_BC, mix)
        nll_BC = self.joint(embed_BMD.flatten(1))
        if self.subspace is not None:
            nll_BC = nll_BC + self.subspace(embed_BMD)
        if self.featex is None:
            return mixed_loss(nll_BC, labels_BC, mix)
        if exchange is None:
            raise ValueError("FeatEx needs an exchange; draw one with models.losses.featex.draw_exchange")
        exchange_BMC = self.featex(embed_BMD, exchange)
        loss_B = mixed_loss(nll_BC + exchange_BMC[:, 0], labels_BC, mix)
        for m in range(1, exchange_BMC.shape[1]):
            source_B = exchange.source_BM[:, m]
            of_source = Mix(mix.partner_B[source_B], mix.keep_B[source_B])
            own_B = smallest_loss(exchange_BMC[:, m], labels_BC[source_B])
            partner_B = smallest_loss(exchange_BMC[:, m], labels_BC[of_source.partner_B])
            loss_B = loss_B + of_source.keep_B * own_B + (1 - of_source.keep_B) * partner_B
        return loss_B

    def _adapt(self, embed_BMD: Tensor, labels_BC: Tensor, mix: Mix) -> None:
        share_BC = labels_BC / labels_BC.sum(dim=1, keepdim=True)
        keep_B1 = mix.keep_B[:, None]
        target_BC = keep_B1 * share_BC + (1 - keep_B1) * share_BC[mix.partner_B]
        self.joint.update_scale(embed_BMD.flatten(1), target_BC)
        if isinstance(self.subspace, SubspaceLoss):
            for m, head in enumerate(self.subspace.heads):
                head.update_scale(embed_BMD[:, m], target_BC)  # type: ignore[operator]
