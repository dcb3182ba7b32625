"""The core-set on a real local Ray of two CPUs: against a plain loop, with deaths, and with real recordings."""

import csv
import io
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import soundfile
import torch
from coreset_world import FAN, RECIPE, SAW, TWO, World, choose, ledger_files, make_world
from torchaudio.functional import resample

from models.backend import unit
from orchestrator import external_scoring
from orchestrator.config import CoreSetConfig, ExternalSource
from orchestrator.coreset import CORE_SET_SCHEMA, CoreSet, core_set_key, read_core_set, samples_of
from orchestrator.data.audioset import find_shards
from orchestrator.data.external import Listed, listed_clips
from orchestrator.errors import DataError
from orchestrator.external_ledger import Progress
from orchestrator.runtime import Slots
from orchestrator.storage import Store
from orchestrator.trainees.extractor import build_extractor

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module", autouse=True)
def local_ray() -> Iterator[None]:
    """A Ray of two CPUs; its folder has a short name because socket paths are limited to 107 bytes."""
    if ray.is_initialized():
        yield
        return
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as folder:
        # the GPU is made up, unless there is one: what is tested is that a fraction of it is asked for
        ray.init(
            address="local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False, _temp_dir=folder
        )
        yield
        ray.shutdown()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def chosen(world: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[CoreSet, Store, list[Progress]]:
    """The result of one scorer, which all other ways must equal."""
    store, seen = Store.at(tmp_path_factory.mktemp("one")), list[Progress]()
    return choose(world, store, on_progress=seen.append), store, seen


def plain_loop(world: World) -> list[tuple[str, str, float, np.ndarray]]:
    """All scorable candidates as (video id, machine, h, samples), one after another, without any of our pipeline."""
    models = []
    for seed in range(3):
        torch.manual_seed(seed)
        models.append(build_extractor(RECIPE).eval())
    kept = [np.load(io.BytesIO(f.read("backends_key.npz"))) for f in world.chooser.folders]
    out = []
    for shard in sorted(Path(world.config.sources[0].parquet[0]).glob("*.parquet")):
        for item in pq.read_table(shard).to_pylist():
            if not {FAN, SAW} & set(item["labels"]) or item["audio"] is None or not item["audio"]["bytes"]:
                continue
            try:
                wave, rate = soundfile.read(io.BytesIO(item["audio"]["bytes"]), always_2d=True)
            except soundfile.SoundFileError:
                continue
            wave = wave[:, 0]
            if rate != 16000:
                wave = resample(torch.from_numpy(wave.copy()), rate, 16000).numpy()
            samples = np.clip(np.rint(wave * 32768), -32768, 32767).astype(np.int16)
            if item["video_id"] in ("cut", "short", "silent"):
                continue
            cut = np.tile(samples, 3)[:16000] if len(samples) < 16000 else samples[:16000]
            scores: dict[str, list[float]] = {}
            for model, references in zip(models, kept, strict=True):
                with torch.inference_mode():
                    embed = unit(model(torch.from_numpy(cut / 32768).float()[None]).flatten(1).numpy())[0]
                for place in references.files:
                    distance = min(1 - float(embed @ reference) for reference in references[place].astype(float))
                    scores.setdefault(place, []).append(distance)
            best = min(scores, key=lambda place: np.mean(scores[place]))
            out.append((item["video_id"], best.split("/")[0], float(np.mean(scores[best])), samples))
    return out


def test_the_choice_equals_a_plain_loop(world: World, chosen: tuple[CoreSet, Store, list[Progress]]) -> None:
    (table, summary), store, progress = chosen
    loop = plain_loop(world)
    expected = []
    for machine, limit in (("fan", 0.1), ("saw", 0.3)):
        below = sorted((score, v, samples) for v, m, score, samples in loop if m == machine and score < limit)
        expected += [(machine, v, score, samples) for score, v, samples in below[:12]]
    assert table.schema == CORE_SET_SCHEMA
    assert {machine for machine, *_ in expected} == {"fan", "saw"}  # the test's sounds do their part
    assert sorted(table["video_id"].to_pylist()) == sorted(video_id for _, video_id, *_ in expected)
    by_id = {video_id: (machine, score, samples) for machine, video_id, score, samples in expected}
    for item, samples in zip(table.to_pylist(), samples_of(table), strict=True):
        machine, score, wave = by_id[item["video_id"]]
        assert item["machine"] == machine
        assert item["score"] == pytest.approx(score, abs=1e-5)
        assert item["clip_id"] == f"external/{item['video_id']}"
        np.testing.assert_array_equal(samples, wave)
    order = [(item["machine"], item["score"], item["clip_id"]) for item in table.to_pylist()]
    assert order == sorted(order)
    assert summary["candidates"]["scored"] == len(loop)
    assert progress[-1].shards_done == progress[-1].shards == 5
    assert progress[-1].kept == len(table)
    assert read_core_set(store).table.equals(table)  # type: ignore[union-attr]


def test_the_first_of_a_clips_own_labels_is_its_class(chosen: tuple[CoreSet, Store, list[Progress]]) -> None:
    store = chosen[1]
    rows = [item for path in ledger_files(store).values() for item in pq.read_table(path).to_pylist()]
    for item in rows:
        if item["clip_id"].startswith("external/v"):
            assert item["mid"] == (SAW if int(item["clip_id"][-4:]) % 5 == 1 else FAN)


def test_bad_rows_have_reasons_and_harm_nobody(chosen: tuple[CoreSet, Store, list[Progress]]) -> None:
    (_, summary), store, _ = chosen
    reasons = {r["video_id"]: r["reason"] for r in csv.DictReader(io.StringIO(store.read("problems.csv").decode()))}
    assert {name: reason.split(":")[0] for name, reason in reasons.items()} == {
        "null-bytes": "no audio",
        "no-audio": "no audio",
        "garbage": "not readable audio",
        "cut": "truncated",
        "short": "too short",
        "silent": "silent",
    }
    assert summary["problems"]["no audio"] == 2
    assert summary["candidates"]["problems"] == 6
    assert summary["candidates"]["seen"] == 20 + 70 + 12 + 15 + 1


def command_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it ended just now
        return ""


@pytest.mark.parametrize(("uneven", "decode"), [(1.0, False), (9.9, True)])
def test_two_scorers_another_order_and_a_death_choose_the_same_to_the_bit(
    world: World,
    chosen: tuple[CoreSet, Store, list[Progress]],
    tmp_path: Path,
    uneven: float,
    decode: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whether decoded units travel to the scorers, or scorers decode whole shards."""
    monkeypatch.setattr(external_scoring, "MOST_UNEVEN", uneven)
    killed: list[str] = []

    def kill_a_scorer(progress: Progress) -> None:
        scorers = [p for p in psutil.Process().children(recursive=True) if "Scorer" in command_of(p)]
        if progress.candidates and not killed and scorers:
            killed.append(command_of(scorers[0]))
            scorers[0].send_signal(signal.SIGKILL)

    store = Store.at(tmp_path)
    result = choose(world, store, TWO, shards=find_shards(world.config)[::-1], on_progress=kill_a_scorer)
    assert ["_decode_shards" in command for command in killed] == [decode]
    assert result.table.equals(chosen[0].table)
    assert result.summary == chosen[0].summary
    ours, theirs = ledger_files(store), ledger_files(chosen[1])
    assert list(ours) == list(theirs)
    assert all(pq.read_table(ours[name]).equals(pq.read_table(theirs[name])) for name in ours)


def test_the_next_unit_is_decoded_before_it_is_asked_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a far store is waited for while the unit before is scored."""
    begun = threading.Event()

    def listed(*given: Any) -> Iterator[Listed]:
        for number, clip in enumerate(listed_clips(*given)):
            if number == external_scoring.UNIT_CLIPS:
                begun.set()
            yield clip

    monkeypatch.setattr(external_scoring, "listed_clips", listed)
    shards = find_shards(world.config)
    long = [shard.name for shard in shards].index("b.parquet")
    units = external_scoring._decode_shards(
        pa.table({"shard": [long]}), shards=ray.put(shards), mids={FAN: "fan"}, min_seconds=0.5, most_samples=16000
    )
    assert len(next(units)["clips"][0]) == 64
    assert begun.wait(30)
    assert [len(unit["clips"][0]) for unit in units] == [6, 0]


DRIVER = """
import os, pickle, signal, sys, tempfile
import ray
sys.path[:0] = {path!r}
from coreset_world import *
ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir={temp!r})
def end(progress):
    if progress.shards_done >= 2:
        os.kill(os.getpid(), signal.SIGKILL)
config = CoreSetConfig.model_validate_json({config!r})
chooser = Chooser(tuple(Store.at(p) for p in {members!r}), RECIPE, 2, "key")
choose(World(config, chooser, ORIGINAL), Store.at({store!r}), on_progress=end)
"""


def test_a_killed_driver_goes_on_where_it_was(
    world: World, chosen: tuple[CoreSet, Store, list[Progress]], tmp_path: Path
) -> None:
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp", ignore_cleanup_errors=True) as temp:
        script = DRIVER.format(
            path=[os.getcwd(), str(Path(__file__).parents[1])],
            temp=temp,
            config=world.config.model_dump_json(),
            members=[store.root for store in world.chooser.folders],
            store=str(tmp_path),
        )
        ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert ended.returncode == -signal.SIGKILL, ended.stderr[-2000:]
    store = Store.at(tmp_path)
    before = {name: path.stat().st_mtime_ns for name, path in ledger_files(store).items()}
    assert 2 <= len(before) < 5
    assert read_core_set(store) is None
    said: list[str] = []
    result = choose(world, store, say=said.append)
    assert result.table.equals(chosen[0].table)
    after = ledger_files(store)
    assert len(after) == 5
    assert all(after[name].stat().st_mtime_ns == stamp for name, stamp in before.items())
    assert said[0] == f"core-set: {len(before)} of 5 shards were scored before"


def with_ledger(chosen: tuple[CoreSet, Store, list[Progress]], folder: Path) -> Store:
    """A folder where the scores are there and the choice is not."""
    (folder / "ledger").mkdir(parents=True)
    for name, path in ledger_files(chosen[1]).items():
        (folder / "ledger" / name).write_bytes(path.read_bytes())
    return Store.at(folder)


def test_the_ledger_alone_gives_other_choices(
    world: World, chosen: tuple[CoreSet, Store, list[Progress]], tmp_path: Path
) -> None:
    ledgers = [pq.read_table(path).to_pylist() for path in ledger_files(chosen[1]).values()]
    rows = sorted((r["score"], r["clip_id"], r["machine"]) for t in ledgers for r in t if not r["problem"])
    strict = {"fan": np.array([rows[0][0]]), "saw": np.array([rows[0][0]])}
    ledger = chosen[1].child("ledger")
    assert len(choose(world, Store.at(tmp_path / "a"), ledger=ledger, original=strict).table) == 0  # strictly below
    pool = world.config.model_copy(update={"per": "pool", "most": 9, "percentile": 50.0})
    original = {"fan": np.array([0.0, 2.0]), "saw": np.array([1.0])}
    result = choose(world, Store.at(tmp_path / "b"), ledger=ledger, config=pool, original=original)
    assert sorted(result.table["clip_id"].to_pylist()) == sorted(clip_id for _, clip_id, _ in rows[:9])
    assert result.summary["threshold"] == {"all machines": 1.0}


def test_rows_with_one_video_id_count_once(
    world: World, chosen: tuple[CoreSet, Store, list[Progress]], tmp_path: Path
) -> None:
    external = tmp_path / "external"
    external.mkdir()
    for name in ("a", "d"):
        source = Path(world.config.sources[0].parquet[0]) / f"{name}.parquet"
        (external / f"{name}.parquet").write_bytes(source.read_bytes())
        (external / f"{name}2.parquet").write_bytes(source.read_bytes())  # another name: another shard
    config = world.config.model_copy(update={"sources": (ExternalSource(parquet=str(external)),)})
    store = with_ledger(chosen, tmp_path / "store")
    shards = find_shards(config)
    by_rows = {shard.rows: shard.key for shard in shards if len(shard.name) == 9}
    for shard in shards:  # equal contents, equal scores
        source = tmp_path / "store" / "ledger" / f"{by_rows[shard.rows]}.parquet"
        source.with_name(f"{shard.key}.parquet").write_bytes(source.read_bytes())
    result = choose(world, store, config=config, shards=shards)
    ids = result.table["clip_id"].to_pylist()
    assert len(set(ids)) == len(ids) > 0
    alone = choose(world, with_ledger(chosen, tmp_path / "alone"), shards=[s for s in shards if len(s.name) == 9])
    assert ids == alone.table["clip_id"].to_pylist()


def test_no_listed_class_is_an_empty_result(world: World, tmp_path: Path) -> None:
    result = choose(world, Store.at(tmp_path), config=world.config.model_copy(update={"classes": ("Ship",)}))
    assert len(result.table) == 0
    assert result.table.schema == CORE_SET_SCHEMA
    assert result.summary["candidates"] == {"seen": 118, "listed": 0, "scored": 0, "problems": 0}
    again = read_core_set(Store.at(tmp_path))
    assert again is not None
    assert again.table.schema == CORE_SET_SCHEMA
    assert samples_of(again.table) == []


def test_a_shard_that_vanished_is_named(world: World, tmp_path: Path) -> None:
    gone = find_shards(world.config)[0]._replace(key="0" * 16, place=str(tmp_path / "gone.parquet"))
    with pytest.raises(DataError, match=r"gone\.parquet cannot be opened"):
        choose(world, Store.at(tmp_path), shards=[gone])


def test_the_key_follows_contents_and_rule_but_no_place(world: World, tmp_path: Path) -> None:
    shards = find_shards(world.config)
    key = core_set_key(world.config, shards, ["m0", "m1"], "s")
    moved = [shard._replace(place="/elsewhere") for shard in shards[::-1]]
    assert core_set_key(world.config, moved, ["m1", "m0"], "s") == key
    renamed = world.config.model_copy(update={"classes": (FAN, "Sawing")})
    assert core_set_key(renamed, shards, ["m0", "m1"], "s") == key
    for change in ({"most": 13}, {"per": "pool"}, {"percentile": 99.0}, {"classes": (FAN,)}, {"min_seconds": 0.6}):
        assert core_set_key(world.config.model_copy(update=change), shards, ["m0", "m1"], "s") != key
    assert core_set_key(world.config, shards[1:], ["m0", "m1"], "s") != key
    assert core_set_key(world.config, shards, ["m0"], "s") != key
    assert core_set_key(world.config, shards, ["m0", "m1"], "t") != key


def test_real_recordings(world: World, shared: Path, tmp_path: Path) -> None:
    config = CoreSetConfig(sources=(ExternalSource(parquet=str(shared / "data" / "external")),), group="g", most=5)
    anything = {"fan": np.array([2.0]), "saw": np.array([2.0])}
    slots = Slots(1, 1.0, 0.5 if ray.cluster_resources().get("GPU") else 0.0)
    result = choose(world, Store.at(tmp_path), slots, config=config, shards=find_shards(config), original=anything)
    assert result.summary["candidates"] == {"seen": 240, "listed": 48, "scored": 48, "problems": 0}
    assert set(result.table["display_name"].to_pylist()) <= {"Helicopter", "Chainsaw"}
    assert 5 <= len(result.table) <= 10
    assert all(len(samples) > 70000 for samples in samples_of(result.table))
