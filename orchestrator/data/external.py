"""The clips of one shard of external audio: first those of the asked classes, later those that were chosen.

The class is decided by the labels before any audio is read; then audio comes in small batches, because one row group
of AudioSet's public copies may hold hundreds of megabytes.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from orchestrator.data.audio import BadClip, decode
from orchestrator.data.audioset import Shard
from orchestrator.errors import DataError, first_line
from orchestrator.storage import locate

AUDIO_ROWS = 8  # encoded clips held at a time
READ_BYTES = 1 << 20  # pages are fetched as they are needed, never a whole column of a row group
MAX_FILE_BYTES = 1 << 28
NO_AUDIO = "no audio: the row's bytes are empty"
NO_ID = "no video id"


class Listed(NamedTuple):
    """One candidate: its row in the shard, its video id, the class that it counts as, and why it cannot be used."""

    row: int
    video_id: str
    mid: str
    samples: NDArray[np.int16]  # 16 kHz, first channel; empty where there is a problem
    problem: str


class Encoded(NamedTuple):
    """The bytes of a row's audio, or the reason why there are none."""

    data: bytes
    problem: str = ""


def listed_clips(shard: Shard, mids: Mapping[str, str], min_seconds: float) -> Iterator[Listed]:
    """Decode the clips of a shard whose labels hold a candidate class, in the order of their rows.

    The first such label of a clip is its class. Nothing is raised for a row: it comes with a problem. DataError where
    the shard cannot be opened.
    """
    for row, video_id, mid, encoded in _encoded(shard, mids):
        samples, problem = np.empty(0, np.int16), encoded.problem or ("" if video_id else NO_ID)
        if not problem:
            try:
                samples = decode(encoded.data, video_id, min_seconds).samples
            except BadClip as error:
                problem = error.reason
        yield Listed(row, video_id, mid, samples, problem)


def chosen_samples(shard: Shard, rows: Sequence[int], min_seconds: float) -> dict[int, NDArray[np.int16]]:
    """Read and decode some rows of a shard once more; DataError where they are no longer what they were."""
    wanted = sorted(rows)
    if shard.files is not None:
        encoded = {row: _read_recording(shard, row) for row in wanted}
    else:
        with _open(shard) as source:
            file = pq.ParquetFile(source, buffer_size=READ_BYTES, pre_buffer=False)
            encoded = dict(_audio(file, wanted))
    try:
        return {row: decode(encoded[row].data, f"{shard.name} row {row}", min_seconds).samples for row in wanted}
    except (BadClip, KeyError) as error:
        raise DataError(
            f"{shard.place} has changed since its clips were scored ({error}); run again to score it anew"
        ) from None


def _encoded(shard: Shard, mids: Mapping[str, str]) -> Iterator[tuple[int, str, str, Encoded]]:
    if shard.files is not None:
        for row, item in enumerate(shard.files.to_pylist()):
            if mid := _first_listed(item["labels"], mids):
                yield row, item["video_id"], mid, _read_recording(shard, row)
        return
    with _open(shard) as source:
        file = pq.ParquetFile(source, buffer_size=READ_BYTES, pre_buffer=False)
        for begin, group in _row_groups(file):
            try:
                named = file.read_row_group(group, columns=["video_id", "labels"]).to_pylist()
            except (OSError, pa.ArrowException) as error:
                yield begin, "", "", Encoded(b"", f"unreadable row group {group}: {first_line(error)}")
                continue
            listed = {begin + i: item for i, item in enumerate(named) if _first_listed(item["labels"], mids)}
            for row, encoded in _audio(file, list(listed)):
                labels = listed[row]["labels"]
                yield row, listed[row]["video_id"] or "", _first_listed(labels, mids) or "", encoded


def _first_listed(labels: Sequence[str | None] | None, mids: Mapping[str, str]) -> str | None:
    return next((mid for mid in labels or () if mid in mids), None)


def _open(shard: Shard) -> pa.NativeFile:
    files, path = locate(shard.place)
    try:
        return files.open_input_file(path)
    except OSError as error:
        raise DataError(f"{shard.place} cannot be opened ({first_line(error)}); run again when it is back") from None


def _row_groups(file: pq.ParquetFile) -> Iterator[tuple[int, int]]:
    """(first row, number) of each row group that holds rows."""
    begin = 0
    for group in range(file.num_row_groups):
        yield begin, group
        begin += file.metadata.row_group(group).num_rows


def _audio(file: pq.ParquetFile, rows: Sequence[int]) -> Iterator[tuple[int, Encoded]]:
    """The audio of some rows (in increasing order); row groups without any of them are skipped."""
    for begin, group in _row_groups(file):
        end = begin + file.metadata.row_group(group).num_rows
        inside = [row for row in rows if begin <= row < end]
        yield from zip(inside, _audio_of_group(file, group, [row - begin for row in inside]), strict=True)


def _audio_of_group(file: pq.ParquetFile, group: int, wanted: Sequence[int]) -> Iterator[Encoded]:
    """Rows of a group in small batches up to the last one wanted; what a damaged page hides has that as its reason."""
    left, begin = list(wanted), 0
    batches = file.iter_batches(AUDIO_ROWS, row_groups=[group], columns=["audio.bytes"], use_threads=False)
    try:
        while left:
            audio = next(batches)["audio"]
            while left and left[0] < begin + len(audio):
                item = audio[left.pop(0) - begin].as_py()
                yield Encoded(item["bytes"]) if item and item["bytes"] else Encoded(b"", NO_AUDIO)
            begin += len(audio)
    except (OSError, pa.ArrowException, StopIteration) as error:
        for _ in left:
            yield Encoded(b"", f"unreadable row group {group}: {first_line(error)}")


def _read_recording(shard: Shard, row: int) -> Encoded:
    assert shard.files is not None
    files, folder = locate(shard.place)
    try:
        with files.open_input_file(f"{folder}/{shard.files['file'][row].as_py()}") as source:
            if source.size() > MAX_FILE_BYTES:
                return Encoded(b"", f"too long: a file of more than {MAX_FILE_BYTES >> 20} MB")
            return Encoded(source.read()) if source.size() else Encoded(b"", NO_AUDIO)
    except OSError as error:
        return Encoded(b"", f"cannot read: {first_line(error)}")
