"""Where external audio lies and which of its classes may help: Parquet shards in AudioSet's public schema, or files.

Only names, sizes and Parquet footers are read here, and every mistake is told at once, before anything is scored.
"""

import csv
import fnmatch
import io
import posixpath
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from hashlib import blake2b
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from orchestrator.config import CoreSetConfig, Study, uses_core_set
from orchestrator.data.audioset_classes import CANDIDATE_CLASSES
from orchestrator.data.segments import FileFault, file_batches
from orchestrator.errors import DataError, first_line
from orchestrator.storage import locate, read_file

MID_BEGINS = ("/m/", "/t/", "/g/")  # how Freebase's machine ids look
LISTED = 20  # faults that a message names before it only counts
COLUMNS = {
    "video_id": "string",
    "audio": "struct with a binary field `bytes`",
    "labels": "list of strings (mids)",
}


class Shard(NamedTuple):
    """A piece of external audio that is read, scored and recorded as a whole.

    `key` follows from file name, size, number of rows and footer (of loose files: names, sizes, labels), not from the
    place. `files` (file, video_id, labels) is there for a batch of loose files only; `place` is then their folder.
    """

    key: str
    name: str
    place: str
    rows: int
    files: pa.Table | None = None


def external_shards(study: Study) -> list[Shard]:
    """The external audio that the study names; DataError lists what is wrong with it."""
    if study.core_set is None or not any(map(uses_core_set, study.groups.values())):
        return []
    return find_shards(study.core_set)


def find_shards(config: CoreSetConfig) -> list[Shard]:
    """All shards of the sources, sorted by name, each once wherever it is listed.

    DataError names every missing path, empty source, wrong schema, broken CSV line and unknown class.
    """
    _, faults = _resolve_classes(config)
    shards: dict[str, Shard] = {}
    for number, source in enumerate(config.sources):
        place = f"core_set.sources.{number}"
        found, wrong = (
            _file_shards(source.audio, source.segments)
            if source.audio and source.segments
            else _parquet_shards(source.parquet)
        )
        shards.update((shard.key, shard) for shard in reversed(found))
        faults += [f"{place}: {fault}" for fault in wrong]
    if faults:
        rest = [f"... and {len(faults) - LISTED} more"] if len(faults) > LISTED else []
        lines = "\n".join(f"  - {fault}" for fault in [*faults[:LISTED], *rest])
        raise DataError(f"the external audio cannot be used for {len(faults)} reason(s); mend `core_set`:\n{lines}")
    return sorted(shards.values(), key=lambda shard: (shard.name, shard.key))


def class_mids(config: CoreSetConfig) -> dict[str, str]:
    """The candidate classes as {mid: display name}; DataError for names that no list knows."""
    mids, faults = _resolve_classes(config)
    if faults:
        raise DataError("core_set.classes cannot be understood:\n" + "\n".join(f"  - {fault}" for fault in faults))
    return mids


def _parquet_shards(places: Sequence[str]) -> tuple[list[Shard], list[str]]:
    shards, faults = [], []
    for place in places:
        try:
            found = list(_expand(place))
        except (OSError, pa.ArrowException) as error:
            faults.append(f"{place}: {first_line(error)}")
            continue
        if not found:
            faults.append(f"{place}: no Parquet file there; name shards, a folder of shards or a pattern")
        for shard in found:
            try:
                shards.append(_read_footer(shard))
            except DataError as error:
                faults.append(f"{shard}: {error}")
    if shards and not faults and not any(shard.rows for shard in shards):
        faults.append(f"{', '.join(places)}: the shards hold no row")
    return shards, faults


def _expand(place: str) -> Iterator[str]:
    """The Parquet files that a path, folder (with its subfolders) or pattern means; OSError if it is not there."""
    files, path = locate(place)
    scheme = place[: place.index("://") + 3] if "://" in place else ""
    for match in _matching(files, path):
        info = files.get_file_info(match)
        if info.type == fs.FileType.NotFound:
            raise FileNotFoundError("no such file or folder")
        if info.type == fs.FileType.File:
            yield scheme + match
            continue
        inside = files.get_file_info(fs.FileSelector(match, recursive=True))
        yield from sorted(scheme + i.path for i in inside if i.is_file and i.path.endswith(".parquet"))


def _matching(files: fs.FileSystem, path: str) -> list[str]:
    """Paths that fit a pattern whose `*`, `?` and `[]` stay within one folder level; a plain path fits itself."""
    head, name = posixpath.split(path)
    if not any(sign in path for sign in "*?[") or files.get_file_info(path).type != fs.FileType.NotFound:
        return [path]
    found = []
    for folder in _matching(files, head):
        inside = files.get_file_info(fs.FileSelector(folder, allow_not_found=True))
        found += [i.path for i in inside if fnmatch.fnmatchcase(i.base_name, name)]
    return sorted(found)


def _read_footer(place: str) -> Shard:
    """A shard by its footer alone; DataError where it is no Parquet or lacks what scoring needs."""
    files, path = locate(place)
    try:
        with files.open_input_file(path) as source:
            size = source.size()
            metadata = pq.read_metadata(source)
            source.seek(size - 8)
            source.seek(size - 8 - int.from_bytes(source.read(4), "little"))
            footer = source.read()
        schema = metadata.schema.to_arrow_schema()
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"not readable as Parquet ({first_line(error)}); fetch or write it again") from None
    if wrong := [name for name in COLUMNS if name not in schema.names or not _fits(name, schema.field(name).type)]:
        expected = ", ".join(f"`{name}` must be a {COLUMNS[name]}" for name in wrong)
        raise DataError(f"{expected}; it has {', '.join(f'{f.name}: {f.type}' for f in schema) or 'no column'}")
    name = posixpath.basename(path)
    return Shard(_key(name, size, metadata.num_rows, footer.hex()), name, place, metadata.num_rows)


def _fits(name: str, kind: pa.DataType) -> bool:
    if name == "video_id":
        return _is_text(kind)
    if name == "labels":
        return (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and _is_text(kind.value_type)
    inner = kind.field("bytes").type if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 else None
    return inner is not None and (pa.types.is_binary(inner) or pa.types.is_large_binary(inner))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _file_shards(folder: str, segments: str) -> tuple[list[Shard], list[str]]:
    name = posixpath.basename(folder.rstrip("/"))
    try:
        batches = file_batches(*locate(folder), *locate(segments))
    except FileFault as error:
        return [], [f"{folder}: {fault}" for fault in error.faults]
    shards = []
    for number, batch in enumerate(batches):
        key = _key(*batch.to_pydict().values())
        shards.append(Shard(key, f"{name}-{number:05d}", folder, len(batch), batch.drop_columns("size")))
    return shards, []


def _key(*facts: object) -> str:
    return blake2b(repr(facts).encode(), digest_size=8).hexdigest()


def _resolve_classes(config: CoreSetConfig) -> tuple[dict[str, str], list[str]]:
    """{mid: display name} of the asked classes, and what is wrong with them."""
    names, faults = dict(CANDIDATE_CLASSES), []
    if config.class_list is not None:
        try:
            names |= _read_class_list(config.class_list)
        except (OSError, UnicodeDecodeError, DataError) as error:
            faults.append(f"core_set.class_list: {config.class_list}: {first_line(error)}")
    by_mid, mids = {mid: name for name, mid in names.items()}, {}
    for asked in config.classes:
        name = by_mid.get(asked) or _full_name(asked, names)
        if name:
            mids[names[name]] = name
        elif asked.startswith(MID_BEGINS) and config.class_list is None:
            mids[asked] = asked  # no list at hand that could know its name
        else:
            near = get_close_matches(asked, [*names, *by_mid], n=3, cutoff=0.4)
            hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
            more = "" if config.class_list else " (set core_set.class_list for classes outside the default list)"
            faults.append(f"core_set.classes: no class is called {asked!r}{hint}{more}")
    return mids, faults


def _full_name(asked: str, names: dict[str, str]) -> str | None:
    """A display name by itself or by its part before a comma or bracket, as the report shortens it."""
    if asked in names:
        return asked
    short = [name for name in names if name.startswith((f"{asked}, ", f"{asked} ("))]
    return short[0] if len(short) == 1 else None


def _read_class_list(place: str) -> dict[str, str]:
    rows = csv.DictReader(io.StringIO(read_file(place).decode("utf-8-sig")))
    if not {"mid", "display_name"} <= set(rows.fieldnames or ()):
        raise DataError("no columns `mid` and `display_name`; use AudioSet's class_labels_indices.csv")
    return {row["display_name"]: row["mid"] for row in rows}
