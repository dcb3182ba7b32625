"""All ways of training and embedding on one device, in processes of their own, and what the 45 members would need."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from rich import box
from rich.table import Column, Table

from orchestrator.bench.rounds import Case, Say, rate_of, together
from orchestrator.bench.tasks import Task
from orchestrator.bench.usage import GpuWatch, Usage, gpu_id
from orchestrator.devices import cores
from orchestrator.errors import ResourceError

MOST_WORKERS = 8  # of a DataLoader
MEMBERS, CLIPS, EPOCHS = 45, 16_000, 18  # of the report's Table 1
FORMULA = f"hours = {MEMBERS} members x {CLIPS} clips x {EPOCHS} epochs / clips per second / 3600"


class Sizes(NamedTuple):
    """How much is measured."""

    device: str
    clip_seconds: float = 10.0
    batch: int = 64
    seconds: float = 20.0  # of each measurement
    members: tuple[int, ...] = (1, 2, 4)  # trained at a time
    clips: int = 0  # in the data set; 0: 32 batches on a GPU, 4 on a CPU

    @property
    def on_gpu(self) -> bool:
        return self.device != "cpu"


class Way(NamedTuple):
    """One way of doing it."""

    name: str
    what: str  # train or infer
    plain: bool
    way: str  # of a task
    gpu_only: bool = False
    farm: bool = False  # a study can be trained so


WAYS = (
    Way("plain, DataLoader", "train", True, "loader"),
    Way("ours, resident", "train", False, "", farm=True),
    Way("ours, streamed", "train", False, "streamed", gpu_only=True, farm=True),
    Way("ours, CUDA graphs", "train", False, "graphs", gpu_only=True, farm=True),
    Way("ours, torch.compile", "train", False, "compile", gpu_only=True),
    Way("plain, DataLoader", "infer", True, "loader"),
    Way("ours, resident", "infer", False, ""),
)


class Row(NamedTuple):
    """What came out of one way; without a rate, `problem` says why."""

    way: Way
    members: int = 1
    rate: float | None = None  # clips/s, all members together
    start_seconds: float = 0.0
    torch_mib: float = 0.0  # all members together; on a CPU, of the processes
    usage: Usage = Usage()
    problem: str = ""

    def as_json(self) -> dict[str, Any]:
        fields = self._asdict() | self.usage._asdict() | {"way": self.way.name, "what": self.way.what}
        return {name: fields[name] for name in fields if name != "usage"} | {
            "problem": "; ".join(filter(None, (self.problem, self.usage.problem)))
        }


def measure_device(sizes: Sizes, say: Say) -> list[Row]:
    """Every way that makes sense on the device, then several members at a time by the fastest that a farm has."""
    rows = []
    for way in WAYS:
        if sizes.on_gpu or not way.gpu_only:
            rows.append(_measure(way, 1, sizes, say))
    best = fastest(rows)
    if best is not None:
        rows += [_measure(best.way, number, sizes, say) for number in sizes.members if number > 1]
    return rows


def fastest(rows: Sequence[Row]) -> Row | None:
    """The training row of most clips/s among what a farm can do; None where all failed."""
    able = [row for row in rows if row.way.what == "train" and row.way.farm and row.rate]
    return max(able, key=lambda row: row.rate or 0.0, default=None)


def _measure(way: Way, members: int, sizes: Sizes, say: Say) -> Row:
    watch = GpuWatch(gpu_id(sizes.device)) if sizes.on_gpu else None
    try:
        done = together(Case((_task(way, sizes),) * members, fast_allocator=False), watch)
    except ResourceError as error:
        row = Row(way, members, problem=str(error))
    else:
        memory, start = sum(one.memory_mib for one in done), max(one.start_seconds for one in done)
        row = Row(way, members, rate_of(done), start, memory, watch.usage() if watch else Usage())
    result = row.problem if row.rate is None else f"{row.rate:.1f} clips/s"
    say(f"{way.what}, {way.name}, {members} at a time: {result}")
    return row


def _task(way: Way, sizes: Sizes) -> Task:
    clips = sizes.clips or (32 if sizes.on_gpu else 4) * sizes.batch
    return Task(
        way.what,
        way.plain,
        sizes.clip_seconds,
        sizes.batch,
        clips,
        sizes.seconds,
        threads=cores() if way.plain else 1,
        device=sizes.device,
        way=way.way,
        workers=min(MOST_WORKERS if sizes.on_gpu else 1, cores()) if way.way == "loader" else 0,
    )


def estimate(rows: Sequence[Row], clip_seconds: float) -> dict[str, Any]:
    """Members per hour and hours for all of them, at the best rate; empty where nothing was measured."""
    best = fastest(rows)
    if best is None or best.rate is None:
        return {}
    passes = CLIPS * EPOCHS
    return {
        "way": best.way.name,
        "members_at_a_time": best.members,
        "clips_per_second": best.rate,
        "clip_seconds": clip_seconds,
        "members_per_hour": 3600 * best.rate / passes,
        "hours": MEMBERS * passes / best.rate / 3600,
        "formula": f"{FORMULA}; training alone, clips of {clip_seconds:g} s",
    }


def device_table(rows: Sequence[Row]) -> Table:
    """What a person reads."""
    headings = ("", "way", "at a\ntime", "clips/s", "times\nplain", "start\ns", "torch\nMiB", "busy\n%", "used\nMiB")
    table = Table(*(Column(heading, no_wrap=True) for heading in headings), box=box.SIMPLE)
    plain = {row.way.what: row.rate for row in rows if row.way.plain}
    for row in rows:
        base = plain.get(row.way.what)
        if row.rate is None:
            table.add_row(row.way.what, row.way.name, str(row.members), "failed")
            continue
        usage = ["" if value is None else f"{value:.0f}" for value in row.usage[:2]]
        figures = (f"{row.rate:.1f}", f"{row.rate / base:.2f}" if base else "", f"{row.start_seconds:.0f}")
        table.add_row(row.way.what, row.way.name, str(row.members), *figures, f"{row.torch_mib:.0f}", *usage)
    return table
