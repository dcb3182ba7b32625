"""All measurements of `asd bench`, as one dictionary and one table."""

import platform
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from rich.table import Table

from models.precision import computes_bfloat16
from orchestrator.bench.external import World, plain_loop, steady_rate, stream, write_world
from orchestrator.bench.memory import PeakMemory
from orchestrator.bench.rounds import Figure, Say, common, farm, measure
from orchestrator.bench.whole import clips_per_second, measure_whole
from orchestrator.config import ClusterConfig
from orchestrator.external_scoring import UNIT_CLIPS
from orchestrator.provenance import program
from orchestrator.runtime import ray_session

PARTS = ("train", "infer", "external", "study", "growth")


class Sizes(NamedTuple):
    """How much is measured."""

    slots: int
    clip_seconds: float = 10.0
    batch: int = 64
    seconds: float = 20.0  # of each measurement
    rounds: int = 3
    units: int = 2  # of external candidates a slot; 64 candidates each
    growth: tuple[int, ...] = (1, 4, 16)  # times as much data
    member_seconds: float = 60.0

    @staticmethod
    def quick(slots: int) -> "Sizes":
        """Enough to see that everything runs."""
        return Sizes(slots, 4.5, 8, 1.0, 1, growth=(1, 2), member_seconds=2.0)


def run_suite(folder: Path, parts: Sequence[str], sizes: Sizes, say: Say) -> dict[str, Any]:
    """Measure the asked parts; the answer is JSON."""
    results: dict[str, Any] = {
        "machine": {
            "cores": sizes.slots,
            "processor": torch.cpu.get_capabilities().get("cpu_name") or platform.machine(),
            "networks of ours": "bfloat16" if computes_bfloat16("cpu") else "float32",
            **program(),
        },
        "sizes": sizes._asdict(),
    }
    for what in ("train", "infer"):
        if what in parts:
            results[what] = against_common(what, sizes, "growth" in parts, say)
    if "external" in parts:
        results["external"] = external(folder, sizes, "growth" in parts, say)
    if "study" in parts:
        say(f"a study of four members of about {sizes.member_seconds:.0f} s, then the same by hand")
        results["study"] = whole_study(folder, sizes, say)
    return results


def against_common(what: str, sizes: Sizes, growth: bool, say: Say) -> dict[str, Any]:
    """(a), (b): the common way and the farm's default in turns; with one slot and with more data too."""
    given: dict[str, Any] = {"clip_seconds": sizes.clip_seconds, "batch": sizes.batch, "seconds": sizes.seconds}
    small = 4 * sizes.batch
    cases = {
        f"{what}, common": common(what, sizes.slots, clips=small, **given),
        f"{what}, ours, {sizes.slots} slot(s)": farm(what, sizes.slots, clips=small, **given),
    }
    if growth:
        cases |= {f"{what}, ours, {n} slot(s)": farm(what, n, clips=small, **given) for n in range(1, sizes.slots)}
        cases |= {
            f"{what}, ours, {sizes.slots} slot(s), {times}x data": farm(what, sizes.slots, clips=small * times, **given)
            for times in sizes.growth[1:]
        }
    figures = measure(cases, sizes.rounds, say)
    return {"ratio": ratio(*list(figures.values())[:2]), "cases": {name: f.as_json() for name, f in figures.items()}}


def ratio(base: Figure, ours: Figure) -> dict[str, float]:
    """Ours over base: the median of the rounds' ratios, and their range."""
    ratios = [b / a for a, b in zip(base.rates, ours.rates, strict=True)]
    return {"median": statistics.median(ratios), "smallest": min(ratios), "largest": max(ratios)}


def external(folder: Path, sizes: Sizes, growth: bool, say: Say) -> dict[str, Any]:
    """(c): candidates per second through Ray Data, against slots times the rate of one plain loop."""
    usual = (sizes.slots, sizes.growth[1])
    asked = [usual]
    if growth:
        fewer = [(slots, sizes.growth[0]) for slots in range(1, sizes.slots)]
        asked = fewer + [(sizes.slots, times) for times in sizes.growth]
    cases = {}
    for slots, times in asked:
        candidates = times * sizes.units * sizes.slots * UNIT_CLIPS
        rounds = sizes.rounds if (slots, times) == usual else 1
        cases[f"{slots} slot(s), {times}x data"] = _external_case(folder, candidates, slots, rounds, sizes, say)
    return cases


def _external_case(folder: Path, candidates: int, slots: int, rounds: int, sizes: Sizes, say: Say) -> dict[str, Any]:
    """One plain loop, Ray Data, and the loop again, so that a machine that slows down does so for both."""
    cluster = ClusterConfig(address="local", slots=slots)
    seen: list[dict[str, float]] = []
    with TemporaryDirectory(dir=folder) as home:
        world = write_world(Path(home), candidates, seconds=sizes.clip_seconds)
        for number in range(rounds):
            with ray_session(cluster), PeakMemory() as peak:
                before = _loop_in_worker(world, sizes.seconds)
                steady, with_start = steady_rate(stream(world, cluster), slots)
                loop = (before + _loop_in_worker(world, sizes.seconds)) / 2
            seen.append(
                {
                    "plain_loop": loop,
                    "ray_data": steady,
                    "ray_data_with_start": with_start,
                    "share_of_slots": steady / (slots * loop),
                    "memory_mib": peak.mib,
                }
            )
            say(
                f"round {number + 1}: {candidates} candidates: {loop:.1f} clips/s in a loop, {steady:.1f} by Ray Data "
                f"with {slots} slot(s)"
            )
    medians = {name: statistics.median(one[name] for one in seen) for name in seen[0]}
    shares = [one["share_of_slots"] for one in seen]
    return {"candidates": candidates, "slots": slots, **medians, "rounds": shares}


def _loop_in_worker(world: World, seconds: float) -> float:
    """The plain loop in a process with the workers' allocator and one thread, for so long at most."""
    import ray

    @ray.remote(num_cpus=1)
    def loop() -> float:
        return steady_rate(plain_loop(world), seconds=seconds)[0]

    return float(ray.get(loop.remote()))


def whole_study(folder: Path, sizes: Sizes, say: Say) -> dict[str, Any]:
    """(d): medians over the rounds, and the shares of every round."""
    member_clips = sizes.member_seconds * clips_per_second(sizes.slots, sizes.seconds)
    seen = []
    for number in range(sizes.rounds):
        home = folder / f"study-{number}"
        home.mkdir()
        whole = measure_whole(home, member_clips, sizes.slots)
        seen.append(whole)
        say(
            f"round {number + 1}: a study of {whole.members} members: {whole.study:.0f} s, its epochs a slot "
            f"{whole.trainings:.0f} s, by hand {whole.by_hand:.0f} s"
        )
    names = ("study", "trainings", "by_hand", "beyond_trainings", "beyond_hand")
    return {name: statistics.median(getattr(whole, name) for whole in seen) for name in names} | {
        "members": seen[0].members,
        "slots": seen[0].slots,
        "rounds": [{"beyond_trainings": one.beyond_trainings, "beyond_hand": one.beyond_hand} for one in seen],
        "memory_mib": max(one.memory_mib for one in seen),
    }


def tables(results: Mapping[str, Any]) -> list[Table]:
    """What a person reads."""
    shown = []
    for what, title in (("train", "training"), ("infer", "inference, three checkpoints")):
        if what in results:
            shown.append(_rates(title, results[what]))
    if "external" in results:
        names = ("plain_loop", "ray_data", "ray_data_with_start", "share_of_slots")
        headings = ("plain loop", "Ray Data", "with its start", "share of slots")
        table = Table("candidates", "slots", *headings, "rounds", "MiB", title="external audio, candidates/s")
        for case in results["external"].values():
            shares = " ".join(f"{share:.2f}" for share in case["rounds"])
            figures = (f"{case[name]:.2f}" for name in names)
            table.add_row(str(case["candidates"]), str(case["slots"]), *figures, shares, f"{case['memory_mib']:.0f}")
        shown.append(table)
    if "study" in results:
        study = results["study"]
        title = f"a study of {study['members']} members, {study['slots']} slots, {study['memory_mib']:.0f} MiB"
        table = Table("", "seconds", "the study takes more", "rounds", title=title)
        table.add_row("asd run", f"{study['study']:.1f}")
        for name, key, label in (
            ("trainings", "beyond_trainings", "its epochs, divided by the slots"),
            ("by_hand", "beyond_hand", "the same by hand, a process a slot"),
        ):
            rounds = " ".join(_percent(one[key]) for one in study["rounds"])
            table.add_row(label, f"{study[name]:.1f}", _percent(study[key]), rounds)
        shown.append(table)
    return shown


def _rates(title: str, result: Mapping[str, Any]) -> Table:
    found = result["ratio"]
    table = Table(
        "case", "clips/s", "rounds", "MiB", title=f"{title}: {found['median']:.2f} x the common way", min_width=60
    )
    for name, case in result["cases"].items():
        rounds = " ".join(f"{rate:.1f}" for rate in case["rounds"])
        table.add_row(name, f"{case['clips_per_second']:.1f}", rounds, f"{case['memory_mib']:.0f}")
    return table


def _percent(share: float) -> str:
    return f"{100 * share:+.1f} %"
