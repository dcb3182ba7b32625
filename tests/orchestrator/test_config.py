"""The schema's own rules: limits, defaults of the report, and what contradicts itself."""

import math
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from models.branches import Branch, min_clip_seconds
from orchestrator.config import (
    CANDIDATE_CLASSES,
    BackendConfig,
    ClusterConfig,
    CoreSetConfig,
    DataConfig,
    EnsembleConfig,
    ExternalSource,
    PseudoLabelConfig,
    Study,
    TrackingConfig,
)
from orchestrator.recipes import Augmentation, AutoencoderRecipe, BranchConfig, EncoderRecipe, ExtractorRecipe

CORE_SET = {"sources": [{"parquet": "p"}], "group": "g"}
AE = {"kind": "autoencoder"}


def study(**changed: Any) -> Study:
    content = {"name": "n", "data": {"root": "d"}, "groups": {"g": {}}, "systems": {"s": {"groups": ["g"]}}}
    return Study.model_validate({**content, **changed})


def recipe(**changed: Any) -> ExtractorRecipe:
    return ExtractorRecipe.model_validate(changed)


def test_defaults_are_the_reports() -> None:
    one = recipe()
    assert [b.model_dump() for b in one.branches] == [
        {"kind": "dft"},
        {"kind": "stft", "n_fft": 4096, "tmn": True},
        {"kind": "stft", "n_fft": 128, "tmn": True},
    ]
    assert (one.clip_seconds, one.embedding_dim, one.sub_clusters, one.adaptive_scale) == (18, 128, 16, False)
    assert (one.batch_size, one.epochs, one.checkpoints, one.learning_rate) == (64, 18, (14, 16, 18), 1e-3)
    assert (one.auxiliary_loss, one.featex_probability) == ("subspace", 0.5)
    encoder = EncoderRecipe()
    assert (encoder.n_fft, encoder.batch_size, encoder.epochs, encoder.margin) == (1024, 32, 6, 1)
    assert (encoder.min_snr_db, encoder.max_snr_db, encoder.resize_axes) == (-5, 5, "both")
    labels = PseudoLabelConfig()
    assert (labels.clusters, labels.threshold, labels.domains, len(labels.seeds)) == (16, 0.95, "together", 2)
    core_set = CoreSetConfig.model_validate(CORE_SET)
    assert (core_set.percentile, core_set.most, core_set.per) == (100, 100, "machine")
    assert len(core_set.classes) == len(CANDIDATE_CLASSES) == 28
    autoencoder = AutoencoderRecipe(kind="autoencoder")
    assert (autoencoder.batch_size, autoencoder.epochs, autoencoder.checkpoints) == (256, 100, (100,))
    whole = study()
    assert whole.seeds == (0, 1, 2, 3, 4)
    assert (whole.backend.clusters, whole.backend.n_init, whole.ensemble.percentile) == (16, 10, 90)


@pytest.mark.parametrize(
    ("augmentation", "chance"),
    [({}, 0.5), ({"kind": "cutmix"}, 0.75), ({"kind": "none"}, 0.0), ({"kind": "cutmix", "probability": 0}, 0.0)],
)
def test_an_augmentation_has_the_reports_probability_unless_set(augmentation: dict[str, Any], chance: float) -> None:
    assert Augmentation.model_validate(augmentation).chance() == chance


def test_branches_become_the_models_branches() -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(BranchConfig)
    branch = adapter.validate_python({"kind": "stft", "n_fft": 256, "tmn": False}).as_branch()
    assert (branch.n_fft, branch.tmn) == (256, False)
    assert adapter.validate_python({"kind": "dft"}).as_branch() == type(branch)()


@pytest.mark.parametrize(
    ("kind", "content", "told"),
    [
        (ExtractorRecipe, {"epochs": 0}, "epochs"),
        (ExtractorRecipe, {"checkpoints": []}, "checkpoints"),
        (ExtractorRecipe, {"epochs": 2}, r"checkpoints \[14, 16, 18\] lie outside epochs 1..2"),
        (ExtractorRecipe, {"checkpoints": [0, 3]}, r"checkpoints \[0\] lie outside"),
        (ExtractorRecipe, {"checkpoints": [3, 2]}, "must increase"),
        (ExtractorRecipe, {"checkpoints": [3, 3]}, "must increase"),
        (ExtractorRecipe, {"clip_seconds": 4.0}, "too short for its branches: at least 4.38"),
        (ExtractorRecipe, {"clip_seconds": math.inf}, "clip_seconds"),
        (ExtractorRecipe, {"branches": []}, "branches"),
        (ExtractorRecipe, {"branches": [{"kind": "dft"}], "auxiliary_loss": "featex"}, "at least 2"),
        (ExtractorRecipe, {"adaptive_scale": True, "auxiliary_loss": "featex"}, "adaptive_scale is not defined"),
        (ExtractorRecipe, {"branches": [{"kind": "stft", "n_fft": 129}]}, "multiple of 2"),
        (ExtractorRecipe, {"branches": [{"kind": "stft"}]}, "n_fft"),
        (ExtractorRecipe, {"branches": [{"kind": "dft", "n_fft": 128}]}, "Extra inputs"),
        (ExtractorRecipe, {"batch_size": 1}, "batch_size"),
        (ExtractorRecipe, {"learning_rate": math.nan}, "learning_rate"),
        (ExtractorRecipe, {"precision": "float16"}, "'bfloat16' or 'float32'"),
        (ExtractorRecipe, {"featex_probability": 1.01}, "featex_probability"),
        (AutoencoderRecipe, {"kind": "autoencoder", "clip_seconds": 1}, "Extra inputs"),
        (EncoderRecipe, {"clip_seconds": 0.3}, "too short for n_fft: at least 0.32"),
        (EncoderRecipe, {"min_snr_db": 6}, "min_snr_db 6.0 is above max_snr_db 5.0"),
        (PseudoLabelConfig, {"threshold": 1}, "threshold"),
        (PseudoLabelConfig, {"seeds": [1]}, "seeds"),
        (ExternalSource, {}, "either `parquet`, or `audio` with `segments`"),
        (ExternalSource, {"parquet": "p", "audio": "a"}, "either `parquet`"),
        (ExternalSource, {"audio": "a"}, "belong together"),
        (CoreSetConfig, {"sources": [], "group": "g"}, "sources"),
        (CoreSetConfig, {"sources": [{"parquet": "p"}], "group": "g", "percentile": 101}, "percentile"),
        (DataConfig, {"root": []}, "root"),
        (DataConfig, {"root": "d", "max_bad_clips": -1}, "max_bad_clips"),
        (BackendConfig, {"clusters": 0}, "clusters"),
        (EnsembleConfig, {"percentile": 100}, "percentile"),
        (EnsembleConfig, {"also": ["mode"]}, "'median'"),
        (ClusterConfig, {"slots": 0}, "slots 0: at least 1, or auto"),
        (ClusterConfig, {"gpus_per_slot": -0.5}, "gpus_per_slot -0.5: 0 or more, or auto"),
        (ClusterConfig, {"cpus_per_slot": 0}, "cpus_per_slot"),
        (ClusterConfig, {"cuda_graphs": "often"}, "cuda_graphs"),
        (TrackingConfig, {"url": "x"}, "Extra inputs"),
    ],
)
def test_what_makes_no_sense_is_refused(kind: Any, content: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        kind.model_validate(content)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"seeds": [1, 1]}, r"seeds \[1, 1\] repeat"),
        ({"seeds": []}, "at least 1 item"),
        ({"seeds": True}, "seeds"),
        ({"seeds": 0}, "seeds"),
        ({"seeds": [-1]}, "seeds"),
        ({"name": "a/b"}, "name"),
        ({"name": ".."}, "name"),
        ({"groups": {}}, "groups"),
        ({"groups": {"a b": {}}}, "groups"),
        ({"systems": {"s": {"groups": ["x", "g"]}}}, r"systems.s.groups: \['x'\] not among the groups \['g'\]"),
        ({"systems": {"s": {"groups": ["g", "g"]}}}, "repeat"),
        ({"systems": {"s": {"groups": []}}}, "groups"),
        ({"extra": 1}, "Extra inputs"),
        ({"groups": {"g": {"core_set": True}}}, "add a `core_set` block"),
        ({"groups": {"g": {"core_set": True}}, "core_set": CORE_SET}, r"must be an extractor without core-set: \[\]"),
        ({"groups": {"g": {}, "a": {"core_set": True}}, "core_set": CORE_SET | {"group": "x"}}, r"without .*\['g'\]"),
        (
            {"groups": {"g": {}, "a": {"core_set": True}}, "core_set": CORE_SET | {"epoch": 3}},
            "3 is no checkpoint of g",
        ),
        ({"groups": {"g": {}, "a": AE}, "systems": {"s": {"groups": ["g", "a"]}}}, "have no common scale"),
        ({"groups": {"g": AE}, "systems": {"s": {"groups": ["g"], "score": "distance"}}}, "give mse or mahalanobis"),
        ({"systems": {"s": {"groups": ["g"], "score": "mse"}}}, "extractor groups give distance"),
    ],
)
def test_a_study_that_contradicts_itself_is_refused(changed: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        study(**changed)


def test_the_shortest_clip_of_the_dft_branch_is_accepted_and_spectrograms_alone_may_be_shorter() -> None:
    shortest = min_clip_seconds(Branch())
    assert recipe(clip_seconds=shortest).clip_seconds == shortest
    with pytest.raises(ValidationError, match=f"at least {math.ceil(shortest * 100) / 100}"):
        recipe(clip_seconds=shortest - 0.001)
    assert recipe(clip_seconds=1.28, branches=[{"kind": "stft", "n_fft": 4096}]).clip_seconds == 1.28
    with pytest.raises(ValidationError, match=r"at least 1\.28"):
        recipe(clip_seconds=1, branches=[{"kind": "stft", "n_fft": 4096}])


def test_systems_know_which_score_they_average_and_a_number_is_the_official_one() -> None:
    systems = {"a": {"groups": ["ae"]}, "m": {"groups": ["ae"], "score": "mahalanobis"}, "g": {"groups": ["g"]}}
    systems["g"]["published"] = 64.72
    made = study(groups={"g": {}, "ae": AE}, systems=systems)
    assert [made.score_of(name) for name in "amg"] == ["mse", "mahalanobis", "distance"]
    assert made.systems["g"].published == {"official": 64.72}


def test_a_study_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        study().name = "other"  # type: ignore[misc]


def test_one_folder_and_several_are_both_lists() -> None:
    assert study().data.root == ("d",)
    assert study(data={"root": ["a", "b"]}).data.root == ("a", "b")
    assert study(seeds=3).seeds == (0, 1, 2)
