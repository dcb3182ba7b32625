"""The schema of a study file: every field with its unit and why one would change it.

Validation answers all mistakes at once (`orchestrator.loading`); nothing here touches disk or Ray.
"""

import math
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from models.extractor import Branch, min_clip_seconds

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


class Recipe(Frozen):
    """How one extractor is trained; with a seed, the labels and the data it is a member's whole identity."""

    kind: Literal["extractor"] = "extractor"
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
    precision: Literal["bfloat16", "float32"] = Field("bfloat16", description="of the networks; FFTs stay float32")

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
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


def _as_tuple(value: object) -> object:
    return (value,) if isinstance(value, str) else value


class DataConfig(Frozen):
    """Where the recordings are and what is tolerated."""

    root: Annotated[tuple[str, ...], BeforeValidator(_as_tuple)] = Field(
        min_length=1, description="folder(s) of <machine>/train and <machine>/test; several are read as one data set"
    )
    truth: str | None = Field(
        None, description="CSV of machine,file_name,is_anomaly,is_target for unlabelled test clips"
    )
    max_bad_clips: int = Field(0, ge=0, description="so many broken recordings may be left out, by name")
    min_seconds: float = Field(0.1, gt=0, le=10, description="shorter recordings count as broken")


class BackendConfig(Frozen):
    """How embeddings become scores (spec §8); changing it rescores without training."""

    clusters: int = Field(16, ge=1, le=1024, description="k-means centres of the source clips")
    n_init: int = Field(10, ge=1, le=100, description="k-means restarts")


class SystemConfig(Frozen):
    """A row of the results: the mean over the scores of its groups' members."""

    groups: tuple[Name, ...] = Field(min_length=1)
    title: str = Field("", max_length=120, description="how tables call it; unset: its key")
    published: float | None = Field(None, ge=0, le=100, description="official score in the report's Table 1, percent")


class EnsembleConfig(Frozen):
    """Rules that are reported beside the plain mean, never instead (spec §9)."""

    also: tuple[Literal["median", "rank_mean", "z_mean"], ...] = ("median", "rank_mean", "z_mean")
    percentile: float = Field(
        90.0, gt=0, lt=100, description="of the gamma fitted to source training scores (spec §12)"
    )


class ClusterConfig(Frozen):
    """Where members train; nothing here changes a score's identity."""

    address: str | None = Field(None, description="of a running Ray cluster; unset: a local one for this run")
    slots: int | Literal["auto"] = Field(
        "auto", description="members trained at a time; auto: one per GPU, else per core"
    )
    cpus_per_slot: float = Field(1, gt=0, le=1024, description="also the threads of a CPU slot")
    gpus_per_slot: float | Literal["auto"] = Field("auto", description="fractions allowed; auto: 1 where GPUs exist")
    max_failures: int = Field(3, ge=0, le=1000, description="slot deaths survived in one run")

    @model_validator(mode="after")
    def _positive(self) -> "ClusterConfig":
        if self.slots != "auto" and self.slots < 1:
            raise ValueError(f"slots {self.slots}: at least 1, or auto")
        if self.gpus_per_slot != "auto" and self.gpus_per_slot < 0:
            raise ValueError(f"gpus_per_slot {self.gpus_per_slot}: 0 or more, or auto")
        if self.gpus_per_slot != "auto" and self.gpus_per_slot > 1 and self.gpus_per_slot % 1:
            raise ValueError(f"gpus_per_slot {self.gpus_per_slot}: a fraction of one GPU, or a whole number")
        return self


class TrackingConfig(Frozen):
    """MLflow; a failure there never fails a run."""

    enabled: bool = True
    uri: str | None = Field(None, description="tracking server; unset: sqlite file mlflow.db in the storage folder")


def _as_seeds(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= 1000:
        return value
    return tuple(range(value))


class Study(Frozen):
    """What to train on which data, and which systems to form of it."""

    name: Name
    storage: str = Field("results", description="folder; the study writes into storage/name")
    data: DataConfig
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, le=2**31)], ...], BeforeValidator(_as_seeds)] = Field(
        (0, 1, 2, 3, 4), min_length=1, description="a list, or a number N for seeds 0..N-1"
    )
    groups: dict[Name, Recipe] = Field(min_length=1, description="a recipe each, trained once per seed")
    systems: dict[Name, SystemConfig] = Field(min_length=1)
    backend: BackendConfig = BackendConfig()
    ensemble: EnsembleConfig = EnsembleConfig()
    cluster: ClusterConfig = ClusterConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _consistent(self) -> "Study":
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds {list(self.seeds)} repeat")
        for name, system in self.systems.items():
            missing = [group for group in system.groups if group not in self.groups]
            if missing:
                raise ValueError(f"systems.{name}.groups: {missing} not among the groups {sorted(self.groups)}")
            if len(set(system.groups)) != len(system.groups):
                raise ValueError(f"systems.{name}.groups: {list(system.groups)} repeat")
        return self
