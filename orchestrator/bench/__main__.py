"""`python -m orchestrator.bench`: one measurement in this process, or fast against common on a bare GPU machine.

python -m orchestrator.bench '{"what": "train", "plain": false, "threads": 1}'     prints JSON
python -m orchestrator.bench --device cuda                                         prints a table; needs no Ray
"""

import argparse
import json

from orchestrator.bench.tasks import Task, perform


def main() -> None:
    """Run one task, or compare both ways on a device."""
    parser = argparse.ArgumentParser(prog="python -m orchestrator.bench", description=__doc__.splitlines()[0])
    parser.add_argument("task", nargs="?", help="fields of a task as JSON")
    parser.add_argument("--device", default="cuda", help="cpu, cuda or cuda:N (without a task)")
    parser.add_argument("--clip-seconds", type=float, default=10.0)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement")
    asked = parser.parse_args()
    if asked.task:
        print(json.dumps(perform(Task(**json.loads(asked.task)))._asdict()))
        return
    for what in ("train", "infer"):
        rates = {}
        for plain in (True, False):
            done = perform(
                Task(what, plain, asked.clip_seconds, asked.batch, seconds=asked.seconds, device=asked.device)
            )
            rates[plain] = done.clips / done.seconds
            name = "common" if plain else "ours"
            print(f"{what:<6} {name:<7} {rates[plain]:9.1f} clips/s  {done.memory_mib:8.0f} MiB", flush=True)
        print(f"{what:<6} ratio   {rates[False] / rates[True]:9.2f}", flush=True)


if __name__ == "__main__":
    main()
