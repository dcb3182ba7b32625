"""Thousands of files through a model: read, decoded and scored in threads, answered in order, in bounded memory."""

import math
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import torch

from orchestrator.serving.answers import Answer, answer
from orchestrator.serving.scorer import EnsembleScorer
from orchestrator.serving.sources import read_recording

CHUNK_FILES = 64
AHEAD = 1  # chunks that wait beside those in the threads


class FileAnswer(NamedTuple):
    """What became of one file."""

    file: str
    answer: Answer


def score_files(
    files: Sequence[str], scorer: EnsembleScorer, *, machine: str | None = None, threads: int | None = None
) -> Iterator[FileAnswer]:
    """Answers in the order of the files. `machine` unset: each file's path tells.

    Every thread takes a chunk of files from bytes to scores, one core each, so that decoding here overlaps with
    networks there.
    """
    workers = threads or available_cpus()
    size = max(1, min(CHUNK_FILES, math.ceil(len(files) / workers)))
    chunks = deque(files[start : start + size] for start in range(0, len(files), size))

    def work(chunk: Sequence[str]) -> list[FileAnswer]:
        recordings = [read_recording(file, scorer.machines, machine) for file in chunk]
        return [FileAnswer(*pair) for pair in zip(chunk, answer(scorer, recordings), strict=True)]

    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        running: deque[Future[list[FileAnswer]]] = deque()
        try:
            while chunks or running:
                while chunks and len(running) < workers + AHEAD:
                    running.append(pool.submit(work, chunks.popleft()))
                yield from running.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def available_cpus() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))
