"""`asd serve` as people start it: a process of its own, a local Ray, and a scorer behind the door."""

import asyncio
import os
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import pytest
from serving_world import clips_of_tests, once
from support import clean_env, command
from web_world import ask, form, score

TOKEN = "correct-horse-battery"
RIGHT = {"Authorization": f"Bearer {TOKEN}"}
LIMITS = ("--max-file-mb", 1, "--max-request-mb", 2, "--max-seconds", 30, "--max-queue", 16, "--timeout", 30)


class Served(NamedTuple):
    """A running service."""

    process: subprocess.Popen[str]
    port: int
    log: Path

    @property
    def scorers(self) -> list[psutil.Process]:
        """The replicas of this service's own Ray."""
        mine = psutil.Process(self.process.pid).children(recursive=True)
        return [child for child in mine if child.name().startswith("ray::ServeReplica")]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return once(lambda: tmp_path_factory.mktemp("serving"))


@pytest.fixture(scope="module")
def served(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    log = tmp_path_factory.mktemp("serve") / "log"
    with log.open("w") as sink:
        process = subprocess.Popen(
            command("serve", "--model", study / "systems" / "both", "--port", 0, *LIMITS),
            stdout=sink, stderr=sink, text=True, env=clean_env() | {"ASD_TOKEN": TOKEN},
        )  # fmt: skip
    try:
        limit = time.monotonic() + 120
        while not (told := re.search(r"ready: http://127\.0\.0\.1:(\d+)", log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < limit, log.read_text()
            time.sleep(0.2)
        yield Served(process, int(told[1]), log)
    finally:
        process.terminate()
        process.wait(60)


def test_scores_are_the_studys(served: Served, study: Path) -> None:
    rows, _ = clips_of_tests(study, "both")
    mine = [row for row in rows.to_pylist() if (row["machine"], row["section"]) == ("fan", "01")]
    files = [(row["file_name"], Path(row["path"]).read_bytes()) for row in mine]
    reply = score(served.port, *files, ("bad.wav", b"noise"), machine="fan", section="01", headers=RIGHT)
    *clips, bad = reply.json["clips"]
    np.testing.assert_allclose([c["score"] for c in clips], [r["score"] for r in mine], rtol=0, atol=1e-5)
    assert [c["decision"] == "anomaly" for c in clips] == [bool(r["decision"]) for r in mine]
    assert bad["problem"] == "not a WAV, FLAC, OGG or MP3 file"


def test_the_greetings_command_works(served: Served, study: Path) -> None:
    (line,) = re.findall(r"next: (curl .*)", served.log.read_text().replace("\n", " "))
    clip = next((study.parent.parent / "factory" / "fan" / "test").glob("section_00*.wav"))
    line = line.replace("clip.wav", str(clip)).replace("-F machine", "-s -F section=00 -F machine")
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, env={**os.environ, "ASD_TOKEN": TOKEN})
    assert '"problem":""' in done.stdout, done


def test_two_thousand_at_once(served: Served) -> None:
    """Only answers or 'come again', whatever the queue of 16; afterwards all is as before."""
    body, kind = form(("a.wav", bytes(3000)), machine="pump")
    head = "".join(f"{k}: {v}\r\n" for k, v in {**kind, **RIGHT, "Host": "x", "Connection": "close"}.items())
    request = f"POST /score HTTP/1.1\r\nContent-Length: {len(body)}\r\n{head}\r\n".encode() + body

    async def client() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(request)
        answer = await reader.read()
        writer.close()
        return answer.split()[1]

    async def burst() -> Counter[bytes]:
        return Counter(await asyncio.gather(*(client() for _ in range(2000))))

    counts = asyncio.run(burst())
    assert set(counts) == {b"200", b"503"}
    assert counts[b"200"] >= 16
    assert ask(served.port, "GET", "/health").json == {"status": "ready"}
    text = ask(served.port, "GET", "/metrics", headers=RIGHT).body.decode()
    assert "asd_queue_requests 0.0" in text
    assert "asd_queue_bytes 0.0" in text


def test_uploads_do_not_stay_in_memory_or_on_disk(served: Served) -> None:
    """200 requests of 2 MB, 400 MB in all, then nothing new under /tmp and less than 100 MB more in the door."""
    files = [("../../a.wav", bytes(1 << 20)), ("/tmp/evil.wav", bytes((1 << 20) - 500))]
    for _ in range(20):
        assert score(served.port, *files, machine="pump", headers=RIGHT).status == 200
    door = psutil.Process(served.process.pid)
    before = door.memory_full_info().uss  # not Ray's object store, whose pages count as they are first used
    for _ in range(180):
        score(served.port, *files, machine="pump", headers=RIGHT)
    assert door.memory_full_info().uss - before < 100 << 20
    assert not Path("/tmp/evil.wav").exists()


def test_a_dead_scorer_is_replaced(served: Served, study: Path) -> None:
    clip = next((study.parent.parent / "factory" / "pump" / "test").glob("*.wav")).read_bytes()
    (scorer,) = served.scorers
    scorer.kill()
    limit, seen = time.monotonic() + 90, Counter[int]()
    while time.monotonic() < limit and not (seen[200] and served.scorers != [scorer]):
        reply = score(served.port, ("a.wav", clip), machine="pump", headers=RIGHT)
        seen[reply.status] += 1
        time.sleep(0.2)
    assert set(seen) <= {200, 503, 504}
    assert score(served.port, ("a.wav", clip), machine="pump", headers=RIGHT).json["clips"][0]["problem"] == ""


def test_sigterm_ends_it_cleanly(served: Served) -> None:
    """Last in this file: the service is gone afterwards."""
    processes = psutil.Process(served.process.pid).children(recursive=True)
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(60) == 0
    _, alive = psutil.wait_procs(processes, timeout=20)
    assert not alive
    log = served.log.read_text()
    assert "Traceback" not in log
    assert "stopping ..." in log
    assert TOKEN not in log


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "MODEL", "--host", "0.0.0.0"], "can be reached from other machines"),
        (["--model", "MODEL", "--max-file-mb", "-1"], "max_file_mb: Input should be greater than 0"),
        (["--model", "nowhere"], "nowhere is not there; name a row's folder"),
    ],
)
def test_a_mistake_is_explained(asd: Callable, study: Path, arguments: list[str], words: str) -> None:
    done = asd("serve", "--port", 0, *(word.replace("MODEL", str(study / "systems" / "both")) for word in arguments))
    assert done.returncode == 2
    assert words in done.stderr
