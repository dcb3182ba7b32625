"""A finished study, made in this process without Ray, for the tests of models that come out of studies."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import soundfile

from orchestrator.config import Study
from orchestrator.data.clips import read_clips
from orchestrator.loading import load_study, study_store, study_yaml
from orchestrator.members import Member
from orchestrator.plan import CLIPS, make_plan
from orchestrator.results import make_results, write_results
from orchestrator.scoring import output_name
from orchestrator.single import train_single
from orchestrator.storage import Store

RATE = 16_000
NAME = "section_{section}_{domain}_{split}_{label}_{index:04d}_rpm_{rpm}.wav"
YAML = """
name: tiny
data: {root: FACTORY}
storage: RESULTS
seeds: 2
recipe: {branches: [{kind: stft, n_fft: 256}], embedding_dim: 16, batch_size: 8, epochs: 2, checkpoints: [1, 2]}
backend: {clusters: 2}
groups:
  one: {clip_seconds: 0.5}
  two: {clip_seconds: 1.0, branches: [{kind: stft, n_fft: 256}, {kind: stft, n_fft: 512}], precision: float32}
  ae: {kind: autoencoder, epochs: 1}
systems:
  one: {groups: [one]}
  both: {groups: [one, two]}
  mse: {groups: [ae]}
  mahalanobis: {groups: [ae], score: mahalanobis}
"""


def wav(wave: np.ndarray, rate: int = RATE, **options: str) -> bytes:
    """The bytes of a file."""
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, **{"format": "WAV", "subtype": "PCM_16", **options})
    return buffer.getvalue()


def sound(hertz: float, rng: np.random.Generator, seconds: float = 0.8) -> np.ndarray:
    """A hum in noise."""
    time = np.arange(int(seconds * RATE)) / RATE
    return 0.1 * np.sin(2 * np.pi * hertz * time) + rng.normal(0, 0.02, len(time))


def make_clips(root: Path) -> None:
    """fan has two sections, pump has one and no target clip in training."""
    rng = np.random.default_rng(0)
    for machine, section, base in (("fan", "00", 300), ("fan", "01", 500), ("pump", "00", 900)):
        for domain, split, label, clips in (
            ("source", "train", "normal", 6),
            ("target", "train", "normal", 0 if machine == "pump" else 2),
            ("source", "test", "normal", 2),
            ("target", "test", "normal", 2),
            ("source", "test", "anomaly", 2),
            ("target", "test", "anomaly", 2),
        ):
            folder = root / machine / split
            folder.mkdir(parents=True, exist_ok=True)
            for index in range(clips):
                name = NAME.format(section=section, domain=domain, split=split, label=label, index=index, rpm=index % 2)
                hertz = base + 40 * (index % 2) + 300 * (label == "anomaly")
                (folder / name).write_bytes(wav(sound(hertz, rng)))


def make_study(folder: Path) -> Path:
    """Train, score and write everything; returns the study's folder."""
    make_clips(folder / "factory")
    path = folder / "tiny.yaml"
    path.write_text(YAML.replace("FACTORY", str(folder / "factory")).replace("RESULTS", str(folder / "results")))
    study = load_study(path)
    for group, recipe in study.groups.items():
        for seed in study.seeds[:1] if recipe.kind == "autoencoder" else study.seeds:
            train_single(study, group, seed, "cpu", 1, lambda stage, clips: None)
    _finish(study)
    return Path(study_store(study).root)


def _finish(study: Study) -> None:
    plan = make_plan(study)
    plan.store.write_table(CLIPS, plan.clips)
    plan.store.write("study.yaml", study_yaml(study).encode())
    tables = [m.folder(plan.store).read_table(output_name(m, plan.key)) for m in plan.members.values()]
    write_results(make_results(study, plan.clips, plan.groups, pa.concat_tables(tables)), plan.clips, plan.store)


def members(folder: Path, group: str) -> tuple[list[Member], str]:
    """A group's members and the key of their scores."""
    plan = make_plan(load_study(folder / "study.yaml"))
    return plan.groups[group], plan.key


def clips_of_tests(folder: Path, system: str) -> tuple[pa.Table, list[np.ndarray]]:
    """The study's own test scores and decisions with the waveforms that they are of."""
    scores = Store.at(folder / "systems" / system).read_table("test_scores.parquet")
    clips = Store.at(folder).read_table(CLIPS)
    clips = clips.filter(pc.equal(clips["split"], "test"))
    order = {(row["machine"], row["file_name"]): row for row in clips.to_pylist()}
    rows = [order[row["machine"], row["file_name"]] for row in scores.to_pylist()]
    table = pa.Table.from_pylist(rows, schema=clips.schema)
    return scores.append_column("path", table["path"]), read_clips(table, 0.1)[1]


_made: dict[str, Path] = {}


def once(make_folder: Callable[[], Path]) -> Path:
    """The study of this process: several test files share it."""
    if "study" not in _made:
        _made["study"] = make_study(make_folder())
    return _made["study"]
