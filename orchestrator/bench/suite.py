"""All measurements of `asd bench`, as one dictionary and one table."""

import platform
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table

from orchestrator.bench.external import World, plain_loop, steady_rate, stream, write_world
from orchestrator.bench.rounds import Figure, Say, common, farm, measure
from orchestrator.bench.whole import Whole, measure_whole
from orchestrator.config import ClusterConfig
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
    candidates: int = 64  # and 4 and 16 times as many
    member_seconds: float = 60.0

    @staticmethod
    def quick(slots: int) -> "Sizes":
        """Enough to see that everything runs."""
        return Sizes(slots, 4.5, 8, 1.0, 1, 8, 2.0)


def run_suite(folder: Path, parts: Sequence[str], sizes: Sizes, say: Say) -> dict[str, Any]:
    """Measure the asked parts; the answer is JSON."""
    results: dict[str, Any] = {
        "machine": {"cores": sizes.slots, "processor": platform.processor() or platform.machine(), **program()},
        "sizes": sizes._asdict(),
    }
    for what in ("train", "infer"):
        if what in parts:
            results[what] = against_common(what, sizes, "growth" in parts, say)
    if "external" in parts:
        results["external"] = external(folder, sizes, "growth" in parts, say)
    if "study" in parts:
        say(f"a study of four members of about {sizes.member_seconds:.0f} s, then the same by hand")
        results["study"] = whole_as_json(measure_whole(folder, sizes.member_seconds, sizes.slots))
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
            for times in (4, 16)
        }
    figures = measure(cases, sizes.rounds, say)
    return {"ratio": ratio(*list(figures.values())[:2]), "cases": {name: f.as_json() for name, f in figures.items()}}


def ratio(base: Figure, ours: Figure) -> dict[str, float]:
    """Ours over base: the median of the rounds' ratios, and their range."""
    ratios = [b / a for a, b in zip(base.rates, ours.rates, strict=True)]
    return {"median": statistics.median(ratios), "smallest": min(ratios), "largest": max(ratios)}


def external(folder: Path, sizes: Sizes, growth: bool, say: Say) -> dict[str, Any]:
    """(c): candidates per second through Ray Data, against slots times the rate of one plain loop."""
    cases: dict[str, dict[str, float]] = {}
    cluster = ClusterConfig(address="local", slots=sizes.slots)
    for times in (1, 4, 16) if growth else (4,):
        world = write_world(folder, sizes.candidates * times, seconds=sizes.clip_seconds)
        with ray_session(cluster):
            loop = _loop_in_worker(world)
            steady, with_start = steady_rate(stream(world, cluster))
        cases[f"{times}x"] = {
            "candidates": sizes.candidates * times,
            "plain_loop": loop,
            "ray_data": steady,
            "ray_data_with_start": with_start,
            "share_of_slots": steady / (sizes.slots * loop),
        }
        say(f"external, {times}x: {loop:.1f} clips/s in a loop, {steady:.1f} through Ray Data")
    return cases


def _loop_in_worker(world: World) -> float:
    """The plain loop in a process with the workers' allocator and one thread."""
    import ray

    @ray.remote(num_cpus=1)
    def loop() -> float:
        return steady_rate(plain_loop(world))[0]

    return float(ray.get(loop.remote()))


def whole_as_json(whole: Whole) -> dict[str, float]:
    """(d)"""
    return whole._asdict() | {"beyond_trainings": whole.beyond_trainings, "beyond_hand": whole.beyond_hand}


def tables(results: Mapping[str, Any]) -> list[Table]:
    """What a person reads."""
    shown = []
    for what, title in (("train", "training"), ("infer", "inference, three checkpoints")):
        if what in results:
            shown.append(_rates(title, results[what]))
    if "external" in results:
        table = Table(
            "candidates", "plain loop", "Ray Data", "with its start", "share of slots", title="external audio"
        )
        for case in results["external"].values():
            names = ("candidates", "plain_loop", "ray_data", "ray_data_with_start", "share_of_slots")
            table.add_row(*(f"{case[name]:.2f}" if name != "candidates" else str(case[name]) for name in names))
        shown.append(table)
    if "study" in results:
        study = results["study"]
        table = Table(
            "", "seconds", "more than it", title=f"a study of {study['members']} members, {study['slots']} slots"
        )
        table.add_row("asd run", f"{study['study']:.1f}", "")
        table.add_row(
            "its epochs, divided by the slots", f"{study['trainings']:.1f}", _percent(study["beyond_trainings"])
        )
        table.add_row("the same by hand", f"{study['by_hand']:.1f}", _percent(study["beyond_hand"]))
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
