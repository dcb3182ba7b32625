"""`python -m orchestrator.bench`: every way of training and embedding on one device, on a bare GPU machine too.

python -m orchestrator.bench --device cuda --out gpu.json                          prints a table; needs no Ray
python -m orchestrator.bench '{"what": "train", "plain": false, "threads": 1}'     one measurement; prints JSON
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from rich.console import Console

from orchestrator.bench.device import Sizes, device_table, estimate, measure_device
from orchestrator.bench.rounds import READY
from orchestrator.bench.tasks import Task, perform
from orchestrator.bench.usage import gpu_name
from orchestrator.provenance import program

TABLE_WIDTH = 100


def main() -> None:
    """Run one task, or measure a device."""
    parser = argparse.ArgumentParser(prog="python -m orchestrator.bench", description=__doc__.splitlines()[0])
    parser.add_argument("task", nargs="?", help="fields of a task as JSON")
    parser.add_argument("--wait", action="store_true", help="with a task: say so when warm, and wait for a line")
    parser.add_argument("--device", default="cuda", help="cpu, cuda or cuda:N")
    parser.add_argument("--clip-seconds", type=float, default=10.0, help="at least 4.5; the report's are 18")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement")
    parser.add_argument("--members", type=int, nargs="+", default=[1, 2, 4], help="trained at a time")
    parser.add_argument("--clips", type=int, default=0, help="in the data set; 32 batches on a GPU, 4 on a CPU")
    parser.add_argument("--out", type=Path, help="the figures as JSON")
    asked = parser.parse_args()
    if asked.task:
        ready = _tell_and_wait if asked.wait else lambda: None
        print(json.dumps(perform(Task(**json.loads(asked.task)), ready)._asdict()))
        return
    if problem := _problem(asked):
        parser.error(problem)
    sizes = Sizes(
        asked.device, asked.clip_seconds, asked.batch, asked.seconds, tuple(sorted(set(asked.members))), asked.clips
    )
    report(sizes, asked.out)


def _problem(asked: argparse.Namespace) -> str | None:
    """What would fail in every measurement, or only at the end."""
    kind, _, number = asked.device.partition(":")
    if asked.device != "cpu" and (kind != "cuda" or not (number or "0").isdigit()):
        return f"--device {asked.device}: cpu, cuda or cuda:N"
    if asked.device != "cpu" and int(number or 0) >= torch.cuda.device_count():
        return f"--device {asked.device}: torch sees {torch.cuda.device_count()} GPU(s); --device cpu works everywhere"
    if asked.batch < 2 or min(asked.members) < 1 or asked.clip_seconds < 4.5:
        return "--batch at least 2, --members at least 1, --clip-seconds at least 4.5"
    if asked.clips and asked.clips < asked.batch:
        return f"--clips {asked.clips}: at least a batch of {asked.batch}"
    if asked.out is not None and (asked.out.is_dir() or not asked.out.absolute().parent.is_dir()):
        return f"--out {asked.out}: name a file in a folder that is there"
    return None


def _tell_and_wait() -> None:
    print(READY, flush=True)
    sys.stdin.readline()


def report(sizes: Sizes, out: Path | None) -> None:
    """Measure, print the table and the estimate, write JSON."""
    console = Console(soft_wrap=True, width=max(TABLE_WIDTH, Console().width))  # also into a file
    name = gpu_name(sizes.device) if sizes.on_gpu else "CPU"
    console.print(
        f"{name}: clips of {sizes.clip_seconds:g} s in batches of {sizes.batch}, {sizes.seconds:g} s each way"
    )
    rows = measure_device(sizes, lambda line: console.print(line, markup=False, highlight=False))
    console.print(device_table(rows))
    console.print("plain: eager, float32, fed clip by clip. Inference counts a clip once for each of 3 checkpoints.")
    for problem in dict.fromkeys(row.usage.problem for row in rows if row.usage.problem):
        console.print(f"note: {problem}", markup=False)
    found = estimate(rows, sizes.clip_seconds)
    if found:
        console.print(
            f"{found['members_per_hour']:.2f} members an hour, {found['hours']:.1f} h for the report's 45 "
            f"({found['way']}, {found['members_at_a_time']} at a time): {found['formula']}"
        )
    if out is not None:
        content = {"device": sizes.device, "name": name, "program": program(), "sizes": sizes._asdict()}
        out.write_text(json.dumps(content | {"rows": [row.as_json() for row in rows], "estimate": found}, indent=2))
        console.print(f"the figures are in {out}")


if __name__ == "__main__":
    main()
