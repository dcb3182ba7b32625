"""A study's folder as a run leaves it, with scores drawn at random: no network is trained, no Ray is started.

Anomalies score higher by as much as a member is good, so that rows differ; seeds are fixed.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import soundfile
from coreset_world import FAN, row, write_shard

from orchestrator.config import Study
from orchestrator.coreset import CORE_SET_SCHEMA
from orchestrator.data.audioset import find_shards
from orchestrator.data.clips import read_clips
from orchestrator.data.dcase import find_clips
from orchestrator.loading import load_study, study_store, study_yaml
from orchestrator.members import Member
from orchestrator.plan import CLIPS, Plan, checked_clips, plan_members
from orchestrator.pseudo_labels import make_pseudo_labels
from orchestrator.recipes import AutoencoderRecipe, EncoderRecipe
from orchestrator.results import make_results, write_results
from orchestrator.scoring import EMBEDDING_SCHEMA, SCORE_SCHEMA, output_name
from orchestrator.storage import Store

RATE = 16_000
YAML = """
name: paper
seeds: 2
recipe: {clip_seconds: 1.0, branches: [{kind: stft, n_fft: 512}], batch_size: 8, epochs: 4, checkpoints: [3, 4]}
pseudo_labels: {clusters: 3, n_init: 1, encoder: {clip_seconds: 1.0, n_fft: 512, batch_size: 4, epochs: 2}}
core_set: {group: pa, most: 5, sources: [{parquet: EXTERNAL}]}
groups:
  ae: {kind: autoencoder, epochs: 3}
  plain: {}
  pa: {pseudo_labels: true}
  pa-as: {pseudo_labels: true, core_set: true}
systems:
  mse: {groups: [ae]}
  plain: {groups: [plain], title: "MR+SL+Mixup"}
  pa: {groups: [pa], title: "MR+SL+Mixup+PA", id: "④"}
  all: {groups: [plain, pa, pa-as], title: "all <members> & more", published: {official: 67.05, fan: 60.07}}
"""


def write_study(
    folder: Path,
    machines: Sequence[str] = ("fan", "pump"),
    text: str = YAML,
    truth: bool = True,
    finished: bool = True,
    clips: tuple[int, int] = (8, 4),
) -> Path:
    """Write recordings and everything that a run would; returns the study's folder.

    The last machine has no attributes. Without `truth` the test clips' names tell nothing; a study that is not
    `finished` was stopped after its first members. `clips`: training clips of a domain, test clips of a kind.
    """
    write_recordings(folder / "data", machines, truth, *clips)
    (folder / "external").mkdir()
    write_shard(folder / "external" / "a.parquet", [row(f"v{i}", b"sound", FAN) for i in range(9)])
    path = folder / "paper.yaml"
    path.write_text(text.replace("EXTERNAL", str(folder / "external")))
    study = load_study(path, [f"data.root={folder / 'data'}", f"storage={folder / 'results'}"])
    store = study_store(study)
    store.write("study.yaml", study_yaml(study).encode())
    table, _ = read_clips(find_clips(study.data.root).clips, 0.1)
    store.write_table(CLIPS, table)
    _run(study, store, checked_clips(table, study.data), finished)
    return Path(store.root)


def write_recordings(root: Path, machines: Sequence[str], truth: bool, train: int, test: int) -> None:
    rng = np.random.default_rng(0)
    for machine in machines:
        rest = "noAttribute" if machine == machines[-1] else "speed_{}"
        names = [f"train/section_00_{d}_train_normal_{i:04d}" for d in ("source", "target") for i in range(train)]
        known = [(d, label) for d in ("source", "target") for label in ("normal", "anomaly")]
        told = [f"test/section_00_{d}_test_{label}_{i:04d}" for d, label in known for i in range(test)]
        blind = [f"test/section_00_{i:04d}" for i in range(len(told))]
        for i, name in enumerate([*names, *(told if truth else blind)]):
            attribute = f"_{rest.format(i % 2)}" if truth or "train" in name else ""
            path = root / machine / f"{name}{attribute}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            hum = 0.1 * np.sin(np.arange(RATE // 2) * (0.1 + 0.1 * ("anomaly" in name)))
            soundfile.write(path, hum + rng.normal(0, 0.02, len(hum)), RATE, subtype="PCM_16")


def _run(study: Study, store: Store, clips: pa.Table, finished: bool) -> None:
    shards = find_shards(study.core_set) if study.core_set else []
    plan = plan_members(study, store, clips, shards)
    _train(plan)
    if plan.encoders:
        folder = plan.pseudo_labels_folder()
        make_pseudo_labels(study.pseudo_labels, clips, plan.encoders, store, folder)
    if not finished:
        return
    plan = plan_members(study, store, clips, shards)
    _train(plan)
    if plan.core_set_folder is not None:
        _write_core_set(plan.core_set_folder, sorted(set(clips["machine"].to_pylist())))
        plan = plan_members(study, store, clips, shards)
        _train(plan)
    scored = [member for member in plan.members.values() if not isinstance(member.recipe, EncoderRecipe)]
    scores = pa.concat_tables(m.folder(store).read_table(output_name(m, plan.key)) for m in scored)
    write_results(make_results(study, clips, plan.groups, scores), clips, store)


def _train(plan: Plan) -> None:
    """What is pending leaves its history and its scores or embeddings behind."""
    for member in plan.pending:
        folder, rng = member.folder(plan.store), np.random.default_rng(int(member.hash[:8], 16))
        losses = 5 * np.exp(-0.5 * np.arange(member.recipe.epochs)) + rng.uniform(0, 0.5)
        rows = [{"epoch": e, "loss": x, "seconds": 2.0, "clips_per_second": 30.0} for e, x in enumerate(losses, 1)]
        if isinstance(member.recipe, EncoderRecipe):
            ids = _of(plan.clips, machine=member.machine, split="train")["clip_id"]
            vectors = rng.normal(size=(len(ids), 8)).astype(np.float32) + 4 * (np.arange(len(ids)) % 3)[:, None]
            table = pa.table({"clip_id": ids, "embedding": vectors.tolist()}, schema=EMBEDDING_SCHEMA)
        else:
            table = _scores(plan.clips, member, rng)
        folder.write_table(output_name(member, plan.key), table)
        if not member.machine:
            _write_references(folder, plan, rng)
        folder.write_json("done.json", {"history": rows})


def _of(clips: pa.Table, **wanted: str) -> pa.Table:
    for name, value in wanted.items():
        clips = clips.filter(pc.equal(clips[name], value))
    return clips


def _scores(clips: pa.Table, member: Member, rng: np.random.Generator) -> pa.Table:
    own = _of(clips, machine=member.machine) if member.machine else clips
    louder = np.array([label == "anomaly" for label in own["label"].to_pylist()]) * rng.uniform(0.5, 2)
    tables = []
    autoencoder = isinstance(member.recipe, AutoencoderRecipe)
    for epoch in member.recipe.checkpoints:
        for output in ("mse", "mahalanobis") if autoencoder else ("distance",):
            score = np.exp(0.3 * (rng.normal(size=len(own)) + louder))
            fixed: dict[str, Any] = {"member": member.hash, "seed": member.seed, "epoch": epoch, "output": output}
            columns = {name: [value] * len(own) for name, value in fixed.items()}
            tables.append(pa.table({**columns, "clip_id": own["clip_id"], "score": score}, schema=SCORE_SCHEMA))
    return pa.concat_tables(tables)


def _write_references(folder: Store, plan: Plan, rng: np.random.Generator) -> None:
    places = set(zip(plan.clips["machine"].to_pylist(), plan.clips["section"].to_pylist(), strict=True))
    kept = {"/".join([*place, "4"]): rng.normal(size=(12, 6)).astype(np.float32) for place in sorted(places)}
    data = io.BytesIO()
    np.savez(data, **kept)  # type: ignore[arg-type]
    folder.write(f"backends_{plan.key}.npz", data.getvalue())


def _write_core_set(folder: Store, machines: Sequence[str]) -> None:
    fixed = {"shard": "a.parquet", "mid": FAN, "display_name": "Mechanical fan", "machine": machines[0], "score": 0.1}
    rows = [{**fixed, "clip_id": f"external/v{i}", "video_id": f"v{i}", "row": i, "digest": f"{i}"} for i in range(3)]
    table = pa.Table.from_pylist([{**row, "samples": b"\0\0"} for row in rows], schema=CORE_SET_SCHEMA)
    folder.write("problems.csv", b"shard,row,video_id,reason\na.parquet,7,v7,too short: 0.1 s\n")
    folder.write_table("core_set.parquet", table)
    summary = {
        "version": 1,
        "threshold": dict.fromkeys(machines, 0.2),
        "most": 5,
        "shards": 1,
        "candidates": {"seen": 9, "listed": 9, "scored": 8, "problems": 1},
        "problems": {"too short": 1},
        "kept": 3,
        "chosen": {machines[0]: {"Mechanical fan": 3}},
    }
    folder.write_json("summary.json", summary)
