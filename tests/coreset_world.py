"""External shards, an untrained h and what is known of the original clips, for the tests of the core-set."""

import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
import torch

from models.backend import fit_backend
from orchestrator.config import CoreSetConfig, ExternalSource
from orchestrator.coreset import CoreSet, choose_core_set
from orchestrator.data.audioset import find_shards
from orchestrator.data.synth.external import SCHEMA
from orchestrator.external_scoring import Chooser
from orchestrator.members import checkpoint_name
from orchestrator.recipes import ExtractorRecipe, StftBranchConfig
from orchestrator.runtime import Slots
from orchestrator.storage import Store
from orchestrator.trainees.extractor import build_extractor

RECIPE = ExtractorRecipe(
    clip_seconds=1.0,
    branches=(StftBranchConfig(kind="stft", n_fft=256),),
    embedding_dim=16,
    epochs=2,
    checkpoints=(2,),
    precision="float32",
)
FAN, SAW, SPEECH = "/m/02x984l", "/m/01b82r", "/m/09x0r"
ONE, TWO = Slots(1, 1.0, 0.0), Slots(2, 1.0, 0.0)
FORMATS = (("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III"), ("WAV", "FLOAT"))
ORIGINAL = {"fan": np.array([0.0, 0.1]), "saw": np.array([0.2, 0.3])}  # h on the training clips
RATES = (8000, 16000, 22050, 44100, 48000)


def sound(kind: str, seconds: float, rate: int, rng: np.random.Generator) -> np.ndarray:
    """A hum for `fan`, strokes of noise for anything else."""
    time = np.arange(round(seconds * rate)) / rate
    if kind == "fan":
        return 0.2 * np.sin(2 * np.pi * rng.uniform(300, 900) * time) + 0.01 * rng.normal(size=len(time))
    return rng.normal(0, 0.1, len(time)) * np.abs(np.sin(2 * np.pi * rng.uniform(2, 9) * time))


def encoded(wave: np.ndarray, rate: int, kind: str, subtype: str) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def row(video_id: str, data: bytes | None, *labels: str) -> dict[str, Any]:
    return {"video_id": video_id, "audio": {"bytes": data, "path": None}, "labels": list(labels), "human_labels": []}


def mixed_rows(first: int, clips: int) -> list[dict[str, Any]]:
    """Clips of all formats, rates, lengths and channel counts; every fifth is of no asked class."""
    rows = []
    for number in range(first, first + clips):
        rng = np.random.default_rng(number)
        rate = RATES[number % 5]
        wave = sound(("fan", "saw")[number % 2], rng.uniform(0.6, 1.6), rate, rng)
        if number % 3 == 0:
            wave = np.stack([wave, -0.5 * wave], axis=1)
        labels = {0: [SPEECH], 1: [SPEECH, SAW, FAN]}.get(number % 5, [FAN])
        rows.append(row(f"v{number:04d}", encoded(wave, rate, *FORMATS[number % 4 + number % 2]), *labels))
    return rows


def bad_rows() -> list[dict[str, Any]]:
    good = encoded(sound("fan", 1, 16000, np.random.default_rng(0)), 16000, "WAV", "PCM_16")
    short = encoded(np.ones(800) * [[0.1]][0] * np.linspace(-1, 1, 800), 16000, "WAV", "PCM_16")
    return [
        row("null-bytes", None, FAN),
        row("no-audio", b"", FAN) | {"audio": None},
        row("garbage", b"these are words, no sound" * 20, FAN),
        row("cut", good[:2000], FAN),
        row("short", short, FAN),
        row("silent", encoded(np.zeros(16000), 16000, "WAV", "PCM_16"), FAN),
        row("speech", b"never looked at", SPEECH),
    ]


class World(NamedTuple):
    """Shards on disk, h on disk, and what the caller knows of the original clips."""

    config: CoreSetConfig
    chooser: Chooser
    original: dict[str, np.ndarray]


def write_shard(path: Path, rows: list[dict[str, Any]], rows_a_group: int = 1000) -> None:
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path, row_group_size=rows_a_group)


def make_chooser(folder: Path, seeds: int) -> Chooser:
    """Untrained extractors, and references from sounds of two machines, `saw` in two sections."""
    folders = []
    for seed in range(seeds):
        torch.manual_seed(seed)
        model = build_extractor(RECIPE).eval()
        store = Store.at(folder / f"member{seed}")
        buffer = io.BytesIO()
        torch.save({"model": model.state_dict()}, buffer)
        store.write(checkpoint_name(2), buffer.getvalue())
        references = {}
        for place in (("fan", "00"), ("saw", "00"), ("saw", "01")):
            rng = np.random.default_rng(len(references))
            waves = np.stack([sound(place[0], 1, 16000, rng) for _ in range(3)])
            with torch.inference_mode():
                embeds = model(torch.from_numpy(waves).float()).flatten(1).numpy()
            references["/".join([*place, "2"])] = fit_backend(embeds[:2], embeds[2:], clusters=2, seed=0).references_RE
        buffer = io.BytesIO()
        np.savez(buffer, **references)
        store.write("backends_key.npz", buffer.getvalue())
        folders.append(store)
    return Chooser(tuple(folders), RECIPE, 2, "key")


def make_world(root: Path) -> World:
    """Five shards: all formats, two units, broken rows, and one without a candidate."""
    (root / "external").mkdir()
    rng = np.random.default_rng(9)
    short = [
        row(f"b{i:03d}", encoded(sound("fan", 0.6, 8000, rng), 8000, "WAV", "PCM_16"), FAN) for i in range(70)
    ]  # two units
    write_shard(root / "external" / "a.parquet", mixed_rows(0, 20), rows_a_group=7)
    write_shard(root / "external" / "b.parquet", short)
    write_shard(root / "external" / "c.parquet", bad_rows() + mixed_rows(100, 5))
    write_shard(root / "external" / "d.parquet", mixed_rows(200, 15))
    write_shard(root / "external" / "none.parquet", [row("x", b"", SPEECH)])
    config = CoreSetConfig(
        sources=(ExternalSource(parquet=str(root / "external")),), group="g", most=12, classes=("Mechanical fan", SAW)
    )
    return World(config, make_chooser(root, 3), ORIGINAL)


def choose(world: World, store: Store, slots: Slots = ONE, **changes: Any) -> CoreSet:
    shards = find_shards(world.config)
    arguments: dict[str, Any] = {
        "config": world.config,
        "shards": shards,
        "chooser": world.chooser,
        "original": world.original,
        "store": store,
        "slots": slots,
    }
    return choose_core_set(**(arguments | changes))


def ledger_files(store: Store) -> dict[str, Path]:
    """The ledger's files by name."""
    return {path.name: path for path in sorted(Path(store.root, "ledger").glob("*.parquet"))}
