"""A model scores as the study did, whatever the batch, and knows what it was made from."""

import csv
import io
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from serving_world import clips_of_tests, members

from models.autoencoder import BANDS, Autoencoder, LogMel, fit_error_covariance, stack_frames
from models.features import AmplitudeSpectrogram
from orchestrator.data.clips import fingerprint, read_clips
from orchestrator.errors import ConfigError, DataError, StorageError
from orchestrator.serving.bundle import Bundle, write_bundle
from orchestrator.serving.from_study import bundle_of_study, reference_scores
from orchestrator.serving.manifest import Place
from orchestrator.storage import Store
from orchestrator.training import load_weights


@pytest.fixture(scope="module")
def scorer(exported: Path):
    return Bundle.load(exported).scorer()


def compare(scored, rows) -> None:
    np.testing.assert_allclose(scored.score, rows["score"].to_numpy(), rtol=0, atol=1e-9)
    assert scored.anomaly.tolist() == [bool(decision) for decision in rows["decision"].to_pylist()]


@pytest.mark.parametrize("system", ["one", "both", "mse"])
def test_scores_and_decisions_are_the_studys(study, tmp_path, system):
    rows, waves = clips_of_tests(study, system)
    scorer = Bundle.load(write_bundle(bundle_of_study(study, system), tmp_path / system)).scorer()
    compare(scorer.score(waves, rows["machine"].to_pylist(), rows["section"].to_pylist()), rows)


def test_thresholds_are_the_studys(study):
    with (study / "systems/both/thresholds.csv").open() as file:
        theirs = [float(row["threshold"]) for row in csv.DictReader(file)]
    places = bundle_of_study(study, "both").manifest.places
    assert [(place.machine, place.section) for place in places] == [("fan", "00"), ("fan", "01"), ("pump", "00")]
    assert [place.threshold for place in places] == theirs


def test_a_clip_scores_the_same_alone_and_among_others(study, scorer):
    rows, waves = clips_of_tests(study, "both")
    machines, sections = rows["machine"].to_pylist(), rows["section"].to_pylist()
    together = scorer.score(waves, machines, sections).score
    alone = [scorer.score([w], [m], [s]).score[0] for w, m, s in zip(waves, machines, sections, strict=True)]
    np.testing.assert_allclose(alone, together, rtol=0, atol=1e-6)
    backwards = scorer.score(waves[::-1], machines[::-1], sections[::-1]).score
    np.testing.assert_allclose(backwards[::-1], together, rtol=0, atol=1e-9)


def test_small_batches_are_no_other_scores(study, exported):
    rows, waves = clips_of_tests(study, "both")
    scorer = Bundle.load(exported).scorer()
    scorer.ensemble.batch_clips = 5
    compare(scorer.score(waves, rows["machine"].to_pylist(), rows["section"].to_pylist()), rows)


def test_features_are_computed_once_for_all_members(study, scorer, monkeypatch):
    """8 checkpoints of 4 members see 12 inputs; of 256 points at both lengths and 512 points at one, 3 are distinct."""
    calls = []
    forward = AmplitudeSpectrogram.forward
    monkeypatch.setattr(AmplitudeSpectrogram, "forward", lambda self, x: calls.append(1) or forward(self, x))
    rows, waves = clips_of_tests(study, "both")
    scorer.score(waves, rows["machine"].to_pylist(), rows["section"].to_pylist())
    assert len(scorer.ensemble.networks) == 8
    assert len(calls) == 3 * math.ceil(len(waves) / scorer.ensemble.batch_clips)


def test_references_are_source_training_clips_and_percentiles_count_them(study, scorer):
    clips = Store.at(study).read_table("clips.parquet")
    bundle = bundle_of_study(study, "both")
    assert {place: len(scores) for place, scores in bundle.references.items()} == {
        Place("fan", "00"): 6,
        Place("fan", "01"): 6,
        Place("pump", "00"): 6,
    }
    own = clips.filter([r["machine"] == "pump" and r["split"] == "train" for r in clips.to_pylist()])
    scored = scorer.score(read_clips(own, 0.1)[1], own["machine"].to_pylist(), own["section"].to_pylist())
    rank = np.argsort(np.argsort(scored.score))
    np.testing.assert_allclose(scored.percentile, 100 * (rank + 1) / 6)


def test_a_place_with_target_clips_alone_is_held_against_them(study):
    clips = Store.at(study).read_table("clips.parquet").to_pylist()
    kept = [row for row in clips if row["split"] == "train" and row["domain"] == "target"]
    table = Store.at(study).read_table("clips.parquet").filter([row in kept for row in clips])
    references = reference_scores(np.arange(len(table), dtype=float), table)
    assert {place: len(scores) for place, scores in references.items()} == {
        Place("fan", "00"): 2,
        Place("fan", "01"): 2,
    }


def test_machines_and_sections_are_named_where_they_are_not_known(scorer):
    assert scorer.place("pump", "17") == Place("pump", "00")
    with pytest.raises(DataError, match="machine 'valve' is unknown to this model; it knows fan, pump"):
        scorer.place("valve")
    with pytest.raises(DataError, match="fan needs one of its sections 00, 01, not None"):
        scorer.place("fan")


def test_nothing_is_scored_as_nothing(scorer):
    assert [len(column) for column in scorer.score([], [])] == [0, 0, 0, 0]


def test_the_manifest_says_what_it_was_made_from(study, exported):
    manifest = Bundle.load(exported).manifest
    clips = Store.at(study).read_table("clips.parquet")
    train = clips.filter([split == "train" for split in clips["split"].to_pylist()])
    assert (manifest.study, manifest.system, manifest.output) == ("tiny", "both", "distance")
    assert manifest.training_data == fingerprint(train)
    assert manifest.machines == ("fan", "pump")
    assert sorted({member.group for member in manifest.members}) == ["one", "two"]
    assert set(manifest.files) == set(manifest.names())
    assert {path.suffix for path in exported.rglob("*") if path.is_file()} == {".json", ".npz", ".pt"}


def test_a_folder_that_exists_is_left_alone(study, exported):
    with pytest.raises(StorageError, match="exists; name a folder that does not"):
        write_bundle(bundle_of_study(study, "both"), exported)
    assert not list(exported.parent.glob(".*.part"))


def test_what_cannot_be_exported_is_said(study, tmp_path):
    with pytest.raises(ConfigError, match="tiny has no system 'nobody'; it has one, both, mse, mahalanobis"):
        bundle_of_study(study, "nobody")
    with pytest.raises(DataError, match="is no study's folder"):
        bundle_of_study(tmp_path, "both")
    copy = shutil.copytree(study, tmp_path / "copy")
    (first, *_), key = members(study, "one")
    (copy / "members" / first.hash / f"scores_{key}.parquet").unlink()
    with pytest.raises(DataError, match=r"one is not finished: one seed 0: to score\. Run `asd run`"):
        bundle_of_study(copy, "one")


def test_mahalanobis_needs_the_covariances(study, tmp_path):
    """The study's own scores, with inverse covariances worked out here from the training clips."""
    copy = shutil.copytree(study, tmp_path / "copy")
    found, key = members(study, "ae")
    for member in found:
        (copy / "members" / member.hash / f"covariances_{key}.npz").unlink(missing_ok=True)
    with pytest.raises(DataError, match="cannot be exported: 2 file"):
        bundle_of_study(copy, "mahalanobis")
    for member in found:
        inverses = inverse_covariances(study, member)
        buffer = io.BytesIO()
        np.savez(buffer, **inverses)
        (copy / "members" / member.hash / f"covariances_{key}.npz").write_bytes(buffer.getvalue())
    rows, waves = clips_of_tests(study, "mahalanobis")
    scorer = Bundle.load(write_bundle(bundle_of_study(copy, "mahalanobis"), tmp_path / "out")).scorer()
    scored = scorer.score(waves, rows["machine"].to_pylist(), rows["section"].to_pylist())
    np.testing.assert_allclose(scored.score, rows["score"].to_numpy(), rtol=1e-9)
    assert scored.anomaly.tolist() == [bool(decision) for decision in rows["decision"].to_pylist()]


@torch.inference_mode()
def inverse_covariances(study: Path, member) -> dict[str, np.ndarray]:
    clips = Store.at(study).read_table("clips.parquet")
    rows = [row["machine"] == member.machine and row["split"] == "train" for row in clips.to_pylist()]
    table, waves = read_clips(clips.filter(rows), 0.1)
    model = Autoencoder()
    load_weights(model, member.folder(Store.at(study)), 1)
    errors: dict[str, list[torch.Tensor]] = {}
    for wave, domain in zip(waves, table["domain"].to_pylist(), strict=True):
        vectors = stack_frames(LogMel()(torch.tensor(wave)[None].float() / 32768))[0]
        errors.setdefault(domain, []).append((vectors - model(vectors)).reshape(-1, BANDS))
    return {domain: fit_error_covariance(torch.cat(found)).numpy() for domain, found in errors.items()}
