"""Sub-cluster AdaCos (SCAC): a class is a group of S directions on the sphere (paper §2.2.1, reference [11]).

Shapes: B clips, D embedding size, C classes, S sub-clusters.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as fn


class SubClusterAdaCos(nn.Module):
    """The negative log-probability of every class: (B, D) -> (B, C) float32, each >= 0.

    p_c is the sum over the S centres of class c of softmax(s * cos(z, w)) over all C * S centres; the loss of a soft
    label y is sum_c y_c * nll_c, which is what `models.losses.multi_label` computes. `centres_CSD[c, k]` is sub-cluster
    k of class c, drawn Xavier-uniform from `generator`. Fixed centres are a buffer and get no gradient. The scale is
    sqrt(2) * ln(C * S - 1); `update_scale` adapts it where a recipe asks for that (the paper does not).
    """

    centres_CSD: Tensor
    scale: Tensor

    def __init__(
        self,
        *,
        classes: int,
        embedding_dim: int,
        sub_clusters: int = 16,
        trainable: bool,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if classes * sub_clusters < 3:
            raise ValueError(f"{classes} class(es) with {sub_clusters} sub-cluster(s): at least 3 centres are needed")
        centres = torch.empty(classes * sub_clusters, embedding_dim)
        nn.init.xavier_uniform_(centres, generator=generator)
        centres = centres.view(classes, sub_clusters, embedding_dim)
        if trainable:
            self.centres_CSD = nn.Parameter(centres)
        else:
            self.register_buffer("centres_CSD", centres)
        self.register_buffer("scale", torch.tensor(math.sqrt(2) * math.log(classes * sub_clusters - 1)))

    def cosines(self, embed_BD: Tensor) -> Tensor:
        """Cosine of each embedding with each centre: (B, D) -> (B, C, S)."""
        centres = fn.normalize(self.centres_CSD.flatten(0, 1), dim=1)
        cos = fn.normalize(embed_BD.float(), dim=1) @ centres.T
        return cos.unflatten(1, self.centres_CSD.shape[:2])

    def forward(self, embed_BD: Tensor) -> Tensor:
        logits_BCS = self.scale * self.cosines(embed_BD)
        # A difference of log-sum-exps: the log of a summed softmax would underflow for far classes.
        per_class_BC = logits_BCS.logsumexp(dim=2)
        return per_class_BC.logsumexp(dim=1, keepdim=True) - per_class_BC

    @torch.no_grad()
    def update_scale(self, embed_BD: Tensor, target_BC: Tensor) -> None:
        """Adapt the scale to a batch as AdaCos does; soft labels (B, C) sum to one (reference [11])."""
        cos_BCS = self.cosines(embed_BD)
        mean_log = (self.scale * cos_BCS).flatten(1).logsumexp(dim=1).logsumexp(dim=0) - math.log(len(embed_BD))
        angle_BC = torch.acos(cos_BCS.amax(dim=2).clamp(-1, 1))
        median = (target_BC * angle_BC).sum(dim=1).median().clamp(max=math.pi / 4)
        self.scale.copy_(mean_log / torch.cos(median))
