"""From trained members to scores and embeddings: recomputed from their checkpoints, without Ray."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from models.autoencoder import (
    Autoencoder,
    LogMel,
    fit_error_covariance,
    mahalanobis_score,
    reconstruction_error,
    stack_frames,
)
from models.backend import unit
from orchestrator.config import BackendConfig
from orchestrator.data.packing import pack
from orchestrator.data.waves import WaveBank
from orchestrator.members import Member
from orchestrator.recipes import AutoencoderRecipe, EncoderRecipe, ExtractorRecipe, StftBranchConfig
from orchestrator.scoring import EMBEDDINGS, SCORE_SCHEMA, Scoring, load_backends, output_name, scoring_key
from orchestrator.storage import Store
from orchestrator.trainees.encoder import build_encoder
from orchestrator.trainees.extractor import load_extractor
from orchestrator.training import load_weights
from orchestrator.work import Work, make_work, work_on

CLIPS = 14  # seven of a fan, seven of a pump: four source, one target, two test clips each
EXTERNAL = 2
SPLIT = ["train"] * 5 + ["test"] * 2
DOMAIN = ["source"] * 4 + ["target", "source", "target"]


@pytest.fixture(scope="module")
def bank() -> WaveBank:
    random = np.random.default_rng(0)
    waves = [random.normal(0, 3000, random.integers(6000, 12000)).astype(np.int16) for _ in range(CLIPS + EXTERNAL)]
    return WaveBank([pack(waves[:7]), pack(waves[7:14]), pack(waves[14:])])


@pytest.fixture(scope="module")
def clips() -> pa.Table:
    rows = [
        {"clip_id": f"{machine}/{i}", "machine": machine, "section": "00", "digest": f"{machine}{i}"}
        | {"split": SPLIT[i], "domain": DOMAIN[i], "attribute": "a"}
        for machine in ("fan", "pump")
        for i in range(7)
    ]
    return pa.Table.from_pylist(rows)


def go(member: Member, tmp_path: Path, clips: pa.Table, bank: WaveBank) -> tuple[Store, Work]:
    from orchestrator.data.labels import label_sets

    train = clips.filter([split == "train" for split in clips["split"].to_pylist()])
    external = pa.table({"clip_id": ["external/a", "external/b"], "mid": ["/m/1"] * 2, "machine": ["fan"] * 2})
    labels = label_sets(train, external=external)
    member = member._replace(classes=labels.digest) if isinstance(member.recipe, ExtractorRecipe) else member
    study = Store.at(tmp_path)
    work = make_work(study, clips, BackendConfig(clusters=2), [labels], [], ["external/a", "external/b"])
    work_on(member, work, bank, lambda stage, clips: None)
    return member.folder(study), work


def scores(folder: Store, member: Member, work: Work) -> dict[tuple[int, str], list[float]]:
    table = folder.read_table(output_name(member, work.scoring.key))
    assert table.schema == SCORE_SCHEMA
    found: dict[tuple[int, str], list[float]] = {}
    for row in table.to_pylist():
        found.setdefault((row["epoch"], row["output"]), []).append(row["score"])
    return found


def test_an_extractors_scores_are_distances_to_its_backends(tmp_path: Path, clips: pa.Table, bank: WaveBank) -> None:
    branch = StftBranchConfig(kind="stft", n_fft=256, tmn=False)
    recipe = ExtractorRecipe(clip_seconds=0.5, branches=(branch,), batch_size=6, epochs=2, checkpoints=(1, 2))
    member = Member("g", 3, recipe, "", "data")
    folder, work = go(member, tmp_path, clips, bank)
    found = scores(folder, member, work)
    assert set(found) == {(1, "distance"), (2, "distance")}
    for epoch in (1, 2):
        model = load_extractor(folder, recipe, epoch)
        with torch.inference_mode():
            embed = unit(model(bank.cut(torch.arange(CLIPS), 8000)).flatten(1).numpy())  # external rows are not scored
        backends = load_backends(folder, work.scoring.key, epoch)
        assert set(backends) == {("fan", "00"), ("pump", "00")}
        for i, score in enumerate(found[epoch, "distance"]):
            references = backends["fan" if i < 7 else "pump", "00"].references_RE
            assert len(references) == 2 + 1  # clusters, and the target clip
            assert score == pytest.approx(min(1 - references @ embed[i]), abs=2e-3)
        assert found[epoch, "distance"][4] == pytest.approx(0, abs=1e-6)  # a target training clip is its own reference


def test_an_autoencoders_two_scores(tmp_path: Path, clips: pa.Table, bank: WaveBank) -> None:
    recipe = AutoencoderRecipe(kind="autoencoder", batch_size=16, epochs=2)
    member = Member("ae", 0, recipe, "", "data", "pump")
    folder, work = go(member, tmp_path, clips, bank)
    found = scores(folder, member, work)
    assert {key: len(values) for key, values in found.items()} == {(2, "mse"): 7, (2, "mahalanobis"): 7}
    model = Autoencoder()
    load_weights(model, folder, 2)
    errors = []
    with torch.inference_mode():
        for i in range(7):
            vectors = stack_frames(LogMel()(bank.whole(7 + i)[None]))[0]
            assert found[2, "mse"][i] == pytest.approx(reconstruction_error(vectors, model(vectors)).mean().item())
            errors.append((vectors - model(vectors)).reshape(-1, 128))
        source, target = fit_error_covariance(torch.cat(errors[:4])), fit_error_covariance(errors[4])
        for i in range(7):
            assert found[2, "mahalanobis"][i] == pytest.approx(mahalanobis_score(errors[i], source, target), rel=1e-4)


def test_an_encoder_leaves_the_embeddings_of_its_machines_training_clips(
    tmp_path: Path, clips: pa.Table, bank: WaveBank
) -> None:
    recipe = EncoderRecipe(clip_seconds=0.5, n_fft=256, batch_size=4, epochs=2)
    member = Member("e", 0, recipe, "", "data", "fan")
    folder, _ = go(member, tmp_path, clips, bank)
    table = folder.read_table(EMBEDDINGS)
    assert table["clip_id"].to_pylist() == [f"fan/{i}" for i in range(5)]
    model = build_encoder(recipe)
    load_weights(model, folder, 2)
    with torch.inference_mode():
        expected = model(bank.cut(torch.arange(5), 8000)).numpy()
    assert np.array(table["embedding"].to_pylist()) == pytest.approx(expected, abs=1e-5)


def test_the_key_knows_backend_and_contents_and_not_the_truth(clips: pa.Table) -> None:
    key = scoring_key(BackendConfig(), clips)
    assert scoring_key(BackendConfig(clusters=3), clips) != key
    assert scoring_key(BackendConfig(), clips.slice(0, 13)) != key
    known = clips.append_column("label", pa.array(["anomaly"] * CLIPS))
    assert scoring_key(BackendConfig(), known) == key


def test_what_is_there_is_not_made_again(tmp_path: Path, clips: pa.Table, bank: WaveBank) -> None:
    member = Member("ae", 0, AutoencoderRecipe(kind="autoencoder", epochs=1), "", "data", "fan")
    folder, work = go(member, tmp_path, clips, bank)
    stamps = {path: path.stat().st_mtime_ns for path in Path(folder.root).iterdir()}
    nothing: Any = None
    work_on(member, work._replace(scoring=Scoring(clips, BackendConfig(), work.scoring.key)), bank, lambda *_: nothing)
    assert {path: path.stat().st_mtime_ns for path in Path(folder.root).iterdir()} == stamps
