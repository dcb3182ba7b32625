"""The schema of a study file: every field with its unit and why one would change it.

Validation answers all mistakes at once (`orchestrator.loading`); nothing here touches disk or Ray.
"""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from orchestrator.data.audioset_classes import CANDIDATE_CLASSES
from orchestrator.recipes import EncoderRecipe, ExtractorRecipe, Frozen, GroupRecipe, Name

SCORES = {"extractor": ("distance",), "autoencoder": ("mse", "mahalanobis")}  # what a recipe's members give


def _as_tuple(value: object) -> object:
    return (value,) if isinstance(value, str) else value


Paths = Annotated[tuple[str, ...], BeforeValidator(_as_tuple)]


def _as_official(value: object) -> object:
    return {"official": value} if isinstance(value, int | float) and not isinstance(value, bool) else value


class DataConfig(Frozen):
    """Where the recordings are and what is tolerated."""

    root: Paths = Field(
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


class PseudoLabelConfig(Frozen):
    """How machines without attributes are labelled (paper §3.2, Algorithm 1, spec §10)."""

    method: Literal["bottom_up", "mixture"] = Field(
        "bottom_up", description="Algorithm 1, or a Gaussian mixture by BIC"
    )
    clusters: int = Field(16, ge=1, le=256, description="k of k-means in both spaces, or the most components")
    threshold: float = Field(0.95, ge=0, lt=1, description="theta of bottom_up: the share of a cluster in another")
    n_init: int = Field(10, ge=1, le=100, description="k-means restarts")
    domains: Literal["together", "apart"] = Field("together", description="cluster source and target together or apart")
    seeds: tuple[int, int] = Field((0, 1), description="of the two encoders: reference space, then target space")
    encoder: EncoderRecipe = EncoderRecipe()
    truth: str | None = Field(
        None, description="CSV of machine,file_name,true_attribute: judges the labels, is never trained on"
    )


class ExternalSource(Frozen):
    """Audio that is no recording of our machines: Parquet shards in AudioSet's public schema, or files with a CSV."""

    parquet: Paths = Field((), description="shards, folders of shards or patterns such as data/audioset/*.parquet")
    audio: str | None = Field(None, description="folder of files named by AudioSet's video id")
    segments: str | None = Field(None, description="AudioSet's segments CSV, which gives the classes of `audio`")

    @model_validator(mode="after")
    def _one_kind(self) -> "ExternalSource":
        if bool(self.parquet) == bool(self.audio):
            raise ValueError("give either `parquet`, or `audio` with `segments`")
        if bool(self.audio) != bool(self.segments):
            raise ValueError("`audio` and `segments` belong together")
        return self


class CoreSetConfig(Frozen):
    """Which external clips join the training (paper §3.3, Algorithm 2, spec §11)."""

    sources: tuple[ExternalSource, ...] = Field(min_length=1)
    group: Name = Field(description="h: the group whose seeds' mean score chooses; the report: row 7's mixup group")
    epoch: int | None = Field(None, ge=1, description="checkpoint of h; unset: the group's last")
    classes: tuple[str, ...] = Field(
        tuple(CANDIDATE_CLASSES), min_length=1, description="candidate classes: AudioSet display names or mids"
    )
    class_list: str | None = Field(
        None, description="AudioSet's class_labels_indices.csv; needed for names outside the default list"
    )
    percentile: float = Field(100.0, gt=0, le=100, description="q: of h on the original training clips, the limit")
    most: int = Field(100, ge=1, le=100_000, description="n_max: clips kept at most")
    per: Literal["machine", "pool"] = Field("machine", description="n_max and limit for each machine, or over all")
    min_seconds: float = Field(0.5, gt=0, le=60, description="shorter candidates are left out")


class SystemConfig(Frozen):
    """A row of the results: the mean over the scores of its groups' members."""

    groups: tuple[Name, ...] = Field(min_length=1)
    score: Literal["distance", "mse", "mahalanobis"] | None = Field(
        None, description="distance for extractors; mse (the default there) or mahalanobis for autoencoders"
    )
    title: str = Field("", max_length=120, description="how tables call it; unset: its key")
    id: str = Field("", max_length=20, description="the submission's number in the report's Table 1")
    published: Annotated[dict[str, Annotated[float, Field(ge=0, le=100)]], BeforeValidator(_as_official)] = Field(
        {}, description="the report's Table 1, percent: `official` and machines; a number is the official score"
    )


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
    cpus_per_slot: Annotated[float, Field(gt=0, le=1024)] | Literal["auto"] = Field(
        "auto",
        description="also the threads of a CPU slot; auto: 1, or up to 4 where a study on a local Ray without GPUs "
        "has at most half as many members as cores",
    )
    gpus_per_slot: float | Literal["auto"] = Field("auto", description="fractions allowed; auto: 1 where GPUs exist")
    cuda_graphs: bool = Field(
        False, description="replay an extractor's passes as one CUDA graph, for twice the GPU memory; not measured"
    )
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
    groups: dict[Name, GroupRecipe] = Field(min_length=1, description="a recipe each, trained once per seed")
    systems: dict[Name, SystemConfig] = Field(min_length=1)
    backend: BackendConfig = BackendConfig()
    pseudo_labels: PseudoLabelConfig = PseudoLabelConfig()
    core_set: CoreSetConfig | None = None
    ensemble: EnsembleConfig = EnsembleConfig()
    cluster: ClusterConfig = ClusterConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _consistent(self) -> "Study":
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds {list(self.seeds)} repeat")
        for name, system in self.systems.items():
            self._check_system(f"systems.{name}", system)
        if users := [name for name, recipe in self.groups.items() if uses_core_set(recipe)]:
            self._check_core_set(users)
        return self

    def _check_system(self, place: str, system: SystemConfig) -> None:
        missing = [group for group in system.groups if group not in self.groups]
        if missing:
            raise ValueError(f"{place}.groups: {missing} not among the groups {sorted(self.groups)}")
        if len(set(system.groups)) != len(system.groups):
            raise ValueError(f"{place}.groups: {list(system.groups)} repeat")
        kinds = sorted({self.groups[group].kind for group in system.groups})
        if len(kinds) > 1:
            raise ValueError(f"{place}.groups: scores of {' and '.join(kinds)} have no common scale")
        if system.score is not None and system.score not in SCORES[kinds[0]]:
            raise ValueError(f"{place}.score: {kinds[0]} groups give {' or '.join(SCORES[kinds[0]])}")

    def _check_core_set(self, users: list[str]) -> None:
        if self.core_set is None:
            raise ValueError(f"groups {users} use a core-set; add a `core_set` block with `sources` and `group`")
        chooser = self.groups.get(self.core_set.group)
        if not isinstance(chooser, ExtractorRecipe) or chooser.core_set:
            valid = [n for n, r in self.groups.items() if isinstance(r, ExtractorRecipe) and not r.core_set]
            raise ValueError(f"core_set.group: {self.core_set.group!r} must be an extractor without core-set: {valid}")
        if self.core_set.epoch not in (None, *chooser.checkpoints):
            raise ValueError(f"core_set.epoch: {self.core_set.epoch} is no checkpoint of {self.core_set.group}")

    def score_of(self, system: str) -> str:
        """Which of its members' scores a system averages."""
        config = self.systems[system]
        return config.score or SCORES[self.groups[config.groups[0]].kind][0]


def uses_core_set(recipe: GroupRecipe) -> bool:
    """Whether members of this recipe wait for external audio."""
    return isinstance(recipe, ExtractorRecipe) and recipe.core_set


def uses_pseudo_labels(recipe: GroupRecipe) -> bool:
    """Whether members of this recipe wait for the labels of machines without attributes."""
    return isinstance(recipe, ExtractorRecipe) and recipe.pseudo_labels
