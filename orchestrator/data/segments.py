"""A folder of external recordings named by video id, and the segments CSV that says what is heard in each."""

import io
import posixpath
import re
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import fs

from orchestrator.errors import DataError

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
FILES_A_BATCH = 256
LINES_A_CHUNK = 100_000
SHOWN_LINES = 5
LINE = re.compile(r'([^\s,"]+)\s*,\s*\d+(?:\.\d+)?\s*,\s*\d+(?:\.\d+)?\s*,\s*("?)([^"]+)\2')
TIMES = (re.compile(r"(_\d+(?:\.\d+)?){2}$"), re.compile(r"_\d+(?:\.\d+)?$"))  # _START_END, _START
SEGMENTS = pa.schema([("video_id", pa.string()), ("labels", pa.string())])
FILES = pa.schema(
    [("file", pa.string()), ("video_id", pa.string()), ("labels", pa.list_(pa.string())), ("size", pa.int64())]
)


class FileFault(DataError):  # noqa: N818
    """What is wrong with a folder or its CSV, one sentence each."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__(faults)
        self.faults = faults


def file_batches(
    files: fs.FileSystem, folder: str, list_files: fs.FileSystem, segments: str, size: int = FILES_A_BATCH
) -> list[pa.Table]:
    """Tables (file, video_id, labels, size) of `size` recordings each, in the order of their names.

    A file belongs to a line by its name: YTID, Y+YTID, YTID_START or YTID_START_END before the suffix. Files without a
    line and lines without a file are left out. FileFault where nothing is left, or a line is broken.
    """
    table, faults = _read_segments(list_files, segments)
    if files.get_file_info(folder).type != fs.FileType.Directory:
        faults.append("no such folder")
    if faults:
        raise FileFault(faults)
    found = _recordings(files, folder)
    if not len(found):
        raise FileFault([f"no recording ({', '.join(SUFFIXES)}) in it"])
    line = _line_of(found["file"].to_pylist(), table["video_id"])
    known = pc.is_valid(line)
    labelled = found.filter(known)
    if not len(labelled):
        raise FileFault([f"none of its {len(found)} recordings is named by a video id of {segments}"])
    lines = table.take(line.filter(known))
    labels = pc.split_pattern(lines["labels"], ",")
    whole = pa.table([labelled["file"], lines["video_id"], labels, labelled["size"]], schema=FILES)
    return [whole.slice(start, size).combine_chunks() for start in range(0, len(whole), size)]


def _recordings(files: fs.FileSystem, folder: str) -> pa.Table:
    """(file, size) of all recordings below a folder, by relative name, sorted."""
    infos = files.get_file_info(fs.FileSelector(folder, recursive=True))
    begin = len(folder.rstrip("/")) + 1
    rows = [(i.path[begin:], i.size) for i in infos if i.is_file and i.path.lower().endswith(SUFFIXES)]
    names, sizes = zip(*sorted(rows), strict=True) if rows else ((), ())
    return pa.table({"file": pa.array(names, pa.string()), "size": pa.array(sizes, pa.int64())})


def _line_of(names: list[str], video_ids: pa.ChunkedArray) -> pa.Array:
    """The line of each file, null where none has its video id; the longest spelling of a name goes first."""
    spelled = [list(_spellings(posixpath.splitext(posixpath.basename(name))[0])) for name in names]
    lines = [
        pc.index_in(pa.array([s[k] if k < len(s) else None for s in spelled], pa.string()), video_ids, skip_nulls=True)
        for k in range(max(map(len, spelled)))
    ]
    return pc.coalesce(*lines)


def _spellings(stem: str) -> Iterator[str]:
    """Video ids that a file's name may mean: ids may hold underscores, digits and a leading Y themselves."""
    bare = dict.fromkeys([stem, *(times.sub("", stem) for times in reversed(TIMES))])
    yield from bare
    yield from (name[1:] for name in bare if name.startswith("Y"))


def _read_segments(files: fs.FileSystem, path: str) -> tuple[pa.Table, list[str]]:
    """The CSV's lines as (video_id, labels joined by commas), kept compactly: AudioSet's longest has two million."""
    if files.get_file_info(path).type != fs.FileType.File:
        return SEGMENTS.empty_table(), [f"no segments CSV {path}"]
    chunks: list[pa.Table] = []
    rows: list[tuple[str, str]] = []
    broken: list[str] = []
    with files.open_input_stream(path) as source:
        for number, line in enumerate(io.TextIOWrapper(source, "utf-8-sig", errors="replace"), 1):
            text = line.strip()
            if not text or text.startswith("#"):
                continue
            match = LINE.fullmatch(text)
            if match is None:
                broken.append(f'{path} line {number}: expected `YTID, start, end, "mid,mid"`, found {text[:60]!r}')
                continue
            rows.append((match[1], match[3]))
            if len(rows) == LINES_A_CHUNK:
                chunks.append(_segment_table(rows))
                rows = []
    if len(broken) > SHOWN_LINES:
        broken[SHOWN_LINES:] = [f"{path}: {len(broken) - SHOWN_LINES} more broken lines"]
    return pa.concat_tables([*chunks, _segment_table(rows)]), broken


def _segment_table(rows: list[tuple[str, str]]) -> pa.Table:
    ids, labels = zip(*rows, strict=True) if rows else ((), ())
    return pa.table([pa.array(ids, pa.string()), pa.array(labels, pa.string())], schema=SEGMENTS)
