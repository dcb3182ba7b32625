"""How fast is `asd serve`, and does its memory grow? Prints requests/s, latencies and memory.

    python tests/benchmarks/serve_load.py MODEL [REQUESTS [CONNECTIONS [SECONDS]]]     default: 10000 16 1.0

MODEL is what `asd serve --model` takes. Every request uploads one WAV of so many seconds (16 kHz, a hum in noise) over
one of CONNECTIONS kept-alive connections. PSS counts what the door's and the scorer's processes own, shared pages in
parts. Then 2,000 clients ask at the same time, each over a connection of its own.
"""

import asyncio
import json
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import psutil

HERE = Path(__file__).resolve()
sys.path[:0] = [str(HERE.parents[2]), str(HERE.parents[1])]

from serving_world import sound, wav  # noqa: E402
from support import ROOT, clean_env, command  # noqa: E402

MB = 1 << 20
BURST = 2000
KIND = "multipart/form-data; boundary=b"
HEAD = f"POST /score HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {KIND}\r\nContent-Length: {{}}\r\n\r\n"


def message(machine: str, section: str, audio: bytes) -> bytes:
    """A whole request."""
    field = '--b\r\nContent-Disposition: form-data; name="{}"{}\r\n\r\n'
    body = field.format("machine", "").encode() + machine.encode() + b"\r\n"
    body += field.format("section", "").encode() + section.encode() + b"\r\n"
    body += field.format("files", '; filename="clip.wav"').encode() + audio + b"\r\n--b--\r\n"
    return HEAD.format(len(body)).encode() + body


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> int:
    """One request over an open connection; its status."""
    writer.write(request)
    await writer.drain()
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    await reader.readexactly(int(head.split("content-length:")[1].split()[0]))
    return int(head.split()[1])


async def load(port: int, request: bytes, requests: int, connections: int) -> list[float]:
    """Seconds of every request; all must be answered with 200."""
    seconds: list[float] = []
    left = iter(range(requests))

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in left:
            started = time.perf_counter()
            status = await ask(reader, writer, request)
            assert status == 200, status
            seconds.append(time.perf_counter() - started)
        writer.close()

    await asyncio.gather(*(client() for _ in range(connections)))
    return seconds


async def burst(port: int, request: bytes) -> Counter[Any]:
    """Statuses of many clients at the same time."""

    async def client() -> object:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            status = await ask(reader, writer, request)
            writer.close()
            return status
        except (OSError, asyncio.IncompleteReadError) as error:
            return type(error).__name__

    return Counter(await asyncio.gather(*(client() for _ in range(BURST))))


def processes(door: int) -> dict[str, psutil.Process]:
    """The door's and the first scorer's."""
    lines = {" ".join(child.info["cmdline"] or []): child for child in psutil.process_iter(["cmdline"])}
    scorers = [child for line, child in lines.items() if line.startswith("ray::ServeReplica")]
    return {"door": psutil.Process(door), "scorer": scorers[0]}


def memory(door: int) -> str:
    """PSS of each."""
    return ", ".join(
        f"{name} {process.memory_full_info().pss / MB:.0f} MB" for name, process in processes(door).items()
    )


def cpu_seconds(door: int) -> dict[str, float]:
    """Of each, since its start."""
    return {name: sum(process.cpu_times()[:2]) for name, process in processes(door).items()}


def measure(door: int, port: int, request: bytes, step: int, connections: int) -> str:
    """Some requests, as a line of figures."""
    started, before = time.perf_counter(), cpu_seconds(door)
    seconds = asyncio.run(load(port, request, step, connections))
    rate = step / (time.perf_counter() - started)
    p50, p99 = np.percentile(seconds, [50, 99]) * 1000
    cpu = ", ".join(f"{name} {1000 * (cpu_seconds(door)[name] - before[name]) / step:.1f} ms" for name in before)
    return f"{rate:6.1f}/s, p50 {p50:.0f} ms, p99 {p99:.0f} ms; CPU a request: {cpu}; {memory(door)}"


def start(model: str) -> tuple[subprocess.Popen[str], int]:
    """A service on a free port."""
    process = subprocess.Popen(
        command("serve", "--model", model, "--port", 0), stdout=subprocess.PIPE, text=True, env=clean_env(), cwd=ROOT
    )
    assert process.stdout
    for line in process.stdout:
        if line.startswith("ready:"):
            return process, int(line.split()[1].rsplit(":", 1)[1])
    raise RuntimeError("the service did not start; see above")


def main() -> None:
    model, requests, connections, seconds = (*sys.argv[1:], *("10000", "16", "1.0")[len(sys.argv) - 2 :])
    process, port = start(model)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/model") as answer:
            machine = json.load(answer)["model"]["machines"][0]
        audio = wav(sound(300, np.random.default_rng(0), float(seconds)))
        request = message(machine["machine"], machine["sections"][0]["section"], audio)
        print(f"{connections} connections, clips of {seconds} s ({len(audio)} bytes); idle: {memory(process.pid)}")
        done, total, step = 0, int(requests), max(1, int(requests) // 5)
        while done < total:
            line = measure(process.pid, port, request, step, int(connections))
            done += step
            print(f"{done:>8} requests: {line}", flush=True)
        started = time.perf_counter()
        statuses = asyncio.run(burst(port, request))
        print(f"{BURST} at once: {dict(statuses)} in {time.perf_counter() - started:.1f} s; {memory(process.pid)}")
    finally:
        process.terminate()
        process.wait(60)


if __name__ == "__main__":
    main()
