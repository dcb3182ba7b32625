"""How networks are trained: a recipe holds every setting that decides a member's weights, each with unit and reason."""

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from models.branches import Branch, min_clip_seconds

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=80)]
Probability = Annotated[float, Field(ge=0, le=1)]


class Frozen(BaseModel):
    """Immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DftBranchConfig(Frozen):
    """The amplitude spectrum of the whole clip (f1)."""

    kind: Literal["dft"]

    def as_branch(self) -> Branch:
        return Branch()


class StftBranchConfig(Frozen):
    """An amplitude spectrogram (f2: 4096 points, f3: 128 points)."""

    kind: Literal["stft"]
    n_fft: int = Field(ge=128, le=16384, multiple_of=2, description="window length in samples; the hop is half of it")
    tmn: bool = Field(True, description="subtract each bin's temporal mean (spec §3; the paper is ambiguous)")

    def as_branch(self) -> Branch:
        return Branch(self.n_fft, self.tmn)


BranchConfig = Annotated[DftBranchConfig | StftBranchConfig, Field(discriminator="kind")]


class Augmentation(Frozen):
    """What happens to training clips; mixup and cutmix are trained apart and averaged (paper §3.1.3)."""

    kind: Literal["mixup", "cutmix", "none"] = "mixup"
    probability: Probability | None = Field(None, description="share of clips; unset: 0.5 for mixup, 0.75 for cutmix")

    def chance(self) -> float:
        """The probability in force."""
        default = {"mixup": 0.5, "cutmix": 0.75, "none": 0.0}[self.kind]
        return default if self.probability is None else self.probability


class ExtractorRecipe(Frozen):
    """How one extractor is trained; with a seed, the labels and the data it is a member's whole identity."""

    kind: Literal["extractor"] = "extractor"
    pseudo_labels: bool = Field(False, description="label machines without attributes by Algorithm 1 (rows 7, 9)")
    core_set: bool = Field(False, description="train on external audio chosen by Algorithm 2 too (rows 8, 9)")
    clip_seconds: float = Field(18.0, gt=0, le=120, description="every clip is tiled or cropped to this (spec §2)")
    branches: tuple[BranchConfig, ...] = Field(
        (
            DftBranchConfig(kind="dft"),
            StftBranchConfig(kind="stft", n_fft=4096),
            StftBranchConfig(kind="stft", n_fft=128),
        ),
        min_length=1,
    )
    embedding_dim: int = Field(128, ge=2, le=4096, description="D, size of one branch's embedding")
    auxiliary_loss: Literal["subspace", "featex", "none"] = Field("subspace", description="paper eq. 7, or eq. 4")
    featex_probability: Probability = Field(
        0.5, description="share of clips whose branches are exchanged (FeatEx only)"
    )
    sub_clusters: int = Field(16, ge=1, le=256, description="S, centres per class")
    adaptive_scale: bool = Field(False, description="adapt the scale of SCAC; the paper keeps it fixed")
    augmentation: Augmentation = Augmentation()
    batch_size: int = Field(64, ge=2, le=4096, description="clips")
    epochs: int = Field(18, ge=1, le=10000)
    checkpoints: tuple[int, ...] = Field((14, 16, 18), min_length=1, description="epochs after which scores are taken")
    learning_rate: float = Field(1e-3, gt=0, le=1, description="of AdamW, constant")
    weight_decay: float = Field(0.01, ge=0, le=1, description="of AdamW")
    precision: Literal["bfloat16", "float32"] = Field(
        "bfloat16", description="of the networks; float32 where the processor has no bfloat16, and for FFTs everywhere"
    )

    @model_validator(mode="after")
    def _consistent(self) -> "ExtractorRecipe":
        late = [epoch for epoch in self.checkpoints if not 1 <= epoch <= self.epochs]
        if late:
            raise ValueError(
                f"checkpoints {late} lie outside epochs 1..{self.epochs}; set both `epochs` and `checkpoints`"
            )
        if list(self.checkpoints) != sorted(set(self.checkpoints)):
            raise ValueError(f"checkpoints {list(self.checkpoints)} must increase")
        shortest = max(min_clip_seconds(branch.as_branch()) for branch in self.branches)
        if self.clip_seconds < shortest:
            shortest = math.ceil(shortest * 100) / 100
            raise ValueError(f"clip_seconds {self.clip_seconds} is too short for its branches: at least {shortest}")
        if self.adaptive_scale and self.auxiliary_loss == "featex":
            raise ValueError("adaptive_scale is not defined for auxiliary_loss featex; use subspace or none")
        if self.auxiliary_loss == "featex" and len(self.branches) < 2:
            raise ValueError("auxiliary_loss featex exchanges branches, so at least 2 are needed")
        return self


class AutoencoderRecipe(Frozen):
    """The challenge's baseline, rows 1 and 2: one small network a machine (spec §13)."""

    kind: Literal["autoencoder"]
    batch_size: int = Field(256, ge=2, le=65536, description="vectors of five stacked frames")
    epochs: int = Field(100, ge=1, le=10000)
    learning_rate: float = Field(1e-3, gt=0, le=1, description="of Adam, constant")
    distance_of_mean: bool = Field(
        False, description="Mahalanobis distance of a clip's mean error, as the official code has it, not the mean one"
    )

    @property
    def checkpoints(self) -> tuple[int, ...]:
        """Scores are taken once, at the end."""
        return (self.epochs,)


class EncoderRecipe(Frozen):
    """g_attr, which tells the sounds of one machine apart whatever the noise (paper §3.2.1); one a machine and seed."""

    kind: Literal["attribute_encoder"] = "attribute_encoder"
    clip_seconds: float = Field(18.0, gt=0, le=120, description="every clip is tiled or cropped to this")
    n_fft: int = Field(1024, ge=128, le=16384, multiple_of=2, description="window length in samples")
    tmn: bool = Field(True, description="subtract each bin's temporal mean; steady machines may be told apart without")
    embedding_dim: int = Field(128, ge=2, le=4096)
    margin: float = Field(1.0, gt=0, description="of the triplet loss, Euclidean distance")
    min_snr_db: float = Field(-5.0, ge=-60, le=60, description="of the noise that other machines add")
    max_snr_db: float = Field(5.0, ge=-60, le=60)
    resize_axes: Literal["both", "time", "frequency"] = Field("both", description="what Resize scales")
    batch_size: int = Field(32, ge=2, le=4096, description="clips of the machine, and as many noise clips")
    epochs: int = Field(6, ge=1, le=10000)
    learning_rate: float = Field(1e-3, gt=0, le=1, description="of AdamW, constant")
    weight_decay: float = Field(0.01, ge=0, le=1, description="of AdamW")
    precision: Literal["bfloat16", "float32"] = Field(
        "bfloat16", description="of the network; float32 where the processor has no bfloat16, and for FFTs everywhere"
    )

    @property
    def checkpoints(self) -> tuple[int, ...]:
        """Embeddings are taken once, at the end."""
        return (self.epochs,)

    @model_validator(mode="after")
    def _consistent(self) -> "EncoderRecipe":
        shortest = min_clip_seconds(Branch(self.n_fft))
        if self.clip_seconds < shortest:
            raise ValueError(f"clip_seconds {self.clip_seconds} is too short for n_fft: at least {shortest:.2f}")
        if self.min_snr_db > self.max_snr_db:
            raise ValueError(f"min_snr_db {self.min_snr_db} is above max_snr_db {self.max_snr_db}")
        return self


Recipe = ExtractorRecipe | AutoencoderRecipe | EncoderRecipe


def _kind(value: object) -> object:
    """The recipe's kind; a group that names none is an extractor."""
    return value.get("kind", "extractor") if isinstance(value, dict) else getattr(value, "kind", "extractor")


# What a study's group may ask for; encoders are made by the pseudo-labels, never by a group.
GroupRecipe = Annotated[
    Annotated[ExtractorRecipe, Tag("extractor")] | Annotated[AutoencoderRecipe, Tag("autoencoder")],
    Discriminator(_kind),
]
