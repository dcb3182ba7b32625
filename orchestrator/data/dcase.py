"""Where the clips of a DCASE Task 2 data set lie and what their names say (2020 to 2026).

Names say which machine section a clip belongs to, its domain, its label and its operating conditions. Layouts:
`<root>/<machine>/<train|test|source_test|target_test>/<clip>.wav`, with up to three folders such as `dev_data/` between
the root and the machine; the root may also be one machine's folder.
"""

import os
import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from orchestrator.data.folders import Entry, is_folder, list_folder, real_place
from orchestrator.errors import DataError
from orchestrator.storage import is_local

NO_ATTRIBUTE = "noAttribute"
AUDIO_SUFFIXES = (".wav", ".flac")
# Folder name -> (split, domain of every clip in it; "" where the folder does not say).
SPLIT_FOLDERS = {
    "train": ("train", ""),
    "test": ("test", ""),
    "source_test": ("test", "source"),
    "target_test": ("test", "target"),
}
MAX_DEPTH = 3  # of folders between a root and a machine, as in data/dev_data/raw/fan

FOUND_SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("machine", pa.string()),
        ("section", pa.string()),
        ("domain", pa.string()),
        ("split", pa.string()),
        ("label", pa.string()),
        ("attribute", pa.string()),
        ("file_name", pa.string()),
        ("path", pa.string()),
        ("size_bytes", pa.int64()),
        ("mtime_ns", pa.int64()),
        ("problem", pa.string()),
    ]
)

_FULL = re.compile(
    r"section_(?P<section>\d+)_(?P<domain>source|target)_(?P<split>train|test)_(?P<label>normal|anomaly)"
    r"_(?P<index>\d+)(?:_(?P<attribute>[^|]+))?"
)
_EVALUATION = re.compile(r"section_(?P<section>\d+)(?:_(?P<domain>source|target))?(?:_(?P<split>test))?_(?P<index>\d+)")
_YEAR_2020 = re.compile(r"(?:(?P<label>normal|anomaly)_)?id_(?P<section>\d+)_(?P<index>\d+)")

_LAYOUT = (
    "Expected <root>/<machine>/train/*.wav (or .flac) beside <machine>/test, as in fan/train/"
    "section_00_source_train_normal_0000_n_A.wav. Name the folder that holds the machine folders; "
    "for recordings to try things out: asd synth data/demo"
)


class BadName(DataError):  # noqa: N818
    """A recording's name follows no known form, or contradicts its folder."""


@dataclass(frozen=True)
class ClipName:
    """What a file name and its folder tell: section as written ("00"), domain, split, label, index, attribute."""

    section: str
    domain: str
    split: str
    label: str
    index: int
    attribute: str


class Found(NamedTuple):
    """Clips in FOUND_SCHEMA, sorted by clip_id, and one sentence for everything that was left aside."""

    clips: pa.Table
    notes: list[str]


def parse_name(file_name: str, folder: str) -> ClipName:
    """Read a clip's name: `section_00_source_train_normal_0000_n_A.wav` in `train` and the other years' forms.

    Returns domain in {source, target, unknown}, label in {normal, anomaly, unknown}, split in {train, test}; the
    attribute is all that follows the index, `noAttribute` where nothing does. 2020 knows no domains: all are source.
    Raises BadName for another form, and where the name contradicts the folder.
    """
    stem = Path(file_name).stem
    match = _FULL.fullmatch(stem) or _EVALUATION.fullmatch(stem) or _YEAR_2020.fullmatch(stem)
    if match is None:
        raise BadName("not a known form such as section_00_source_train_normal_0000_n_A or section_00_0001")
    split, folder_domain = SPLIT_FOLDERS[folder]
    told = {key: value for key, value in match.groupdict().items() if value}
    year_domain = "source" if match.re is _YEAR_2020 else ""
    name = ClipName(
        section=told["section"],
        domain=told.get("domain") or folder_domain or year_domain or "unknown",
        split=split,
        label=told.get("label", "unknown"),
        index=int(told["index"]),
        attribute=told.get("attribute", NO_ATTRIBUTE),
    )
    _agree(name, told, folder, folder_domain)
    return name


def _agree(name: ClipName, told: dict[str, str], folder: str, folder_domain: str) -> None:
    """Refuse a name that its folder contradicts: a misplaced clip would train or score as what it is not."""
    if told.get("split", name.split) != name.split:
        raise BadName(f"says {told['split']} but lies in {folder}")
    if folder_domain and name.domain != folder_domain:
        raise BadName(f"says {name.domain} but lies in {folder}")
    if name.split == "train" and (name.label != "normal" or name.domain == "unknown"):
        raise BadName(f"label {name.label}, domain {name.domain}: training clips are normal and of a known domain")


class Machine(NamedTuple):
    """A machine's folder and what is in it."""

    path: str
    subfolders: list[Entry]

    @property
    def name(self) -> str:
        return posixpath.basename(self.path)


def find_clips(roots: Sequence[str | Path]) -> Found:
    """List the clips of all roots as one data set, from names and file stamps alone.

    A machine's parts may lie in several roots. Audio whose name is not understood is a row with a problem; other files
    are ignored; folders that hold no clips of a split are counted in the notes. DataError: a root is missing, there is
    no clip at all, or two files claim the same clip.
    """
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    for machine in _all_machines(roots, notes):
        for folder in machine.subfolders:
            entries = list_folder(folder.path)
            if folder.name in SPLIT_FOLDERS:
                rows.extend(_row(machine.name, folder.name, entry) for entry in _audio_files(entries))
            else:
                _note_skipped(folder.path, entries, notes)
    if not rows:
        looked = ", ".join(map(str, roots)) or "(no folder named)"
        raise DataError(f"no recordings found in {looked}. {_LAYOUT}")
    _refuse_duplicates(rows)
    rows.sort(key=lambda row: row["clip_id"])
    return Found(pa.Table.from_pylist(rows, schema=FOUND_SCHEMA), notes)


def _all_machines(roots: Sequence[str | Path], notes: list[str]) -> list[Machine]:
    """Machine folders of all roots, each once even where roots overlap."""
    machines: dict[str, Machine] = {}
    for root in roots:
        if not is_folder(root):
            raise DataError(f"{root} is not a folder. {_LAYOUT}")
        place = os.path.abspath(root) if is_local(root) else str(root).rstrip("/")
        for machine in _machines(place, MAX_DEPTH, notes):
            machines.setdefault(real_place(machine.path), machine)
    return list(machines.values())


def _machines(folder: str, depth: int, notes: list[str]) -> Iterator[Machine]:
    """Folders below (or the folder itself) that hold a split folder."""
    entries = list_folder(folder)
    subfolders = _subfolders(entries)
    if any(sub.name in SPLIT_FOLDERS for sub in subfolders):
        yield Machine(folder, subfolders)
        return
    _note_skipped(folder, entries, notes)
    if depth:
        for sub in subfolders:
            yield from _machines(sub.path, depth - 1, notes)


def _subfolders(entries: Sequence[Entry]) -> list[Entry]:
    """Visible subfolders by name; `__MACOSX` holds an archiver's shadow copies of every file."""
    return sorted(e for e in entries if e.is_folder and not e.name.startswith(".") and e.name != "__MACOSX")


def _audio_files(entries: Sequence[Entry]) -> list[Entry]:
    return [
        entry
        for entry in entries
        if entry.name.lower().endswith(AUDIO_SUFFIXES) and not entry.name.startswith(".") and not entry.is_folder
    ]


def _note_skipped(folder: str, entries: Sequence[Entry], notes: list[str]) -> None:
    count = len(_audio_files(entries))
    if count:
        notes.append(f"{folder}: {count} audio files left aside, the folder is none of {', '.join(SPLIT_FOLDERS)}")


def _row(machine: str, folder: str, entry: Entry) -> dict[str, Any]:
    split = SPLIT_FOLDERS[folder][0]
    row: dict[str, Any] = {"machine": machine, "split": split, "file_name": entry.name, "path": entry.path}
    row |= {"clip_id": f"{machine}/{split}/{Path(entry.name).stem}", "problem": "", "size_bytes": -1, "mtime_ns": -1}
    row |= {"section": "", "domain": "unknown", "label": "unknown", "attribute": NO_ATTRIBUTE}
    try:
        if "|" in machine:  # it separates the parts of a class's name
            raise BadName("the machine's folder may not have a | in its name")
        name = parse_name(entry.name, folder)
        row |= {key: getattr(name, key) for key in ("section", "domain", "label", "attribute")}
        row |= {"size_bytes": entry.size_bytes, "mtime_ns": entry.mtime_ns, "problem": entry.problem}
    except BadName as error:
        row["problem"] = f"name: {error}"
    return row


def _refuse_duplicates(rows: list[dict[str, Any]]) -> None:
    """Two files of one clip_id would make scores ambiguous."""
    first: dict[str, str] = {}
    pairs = [
        (first[row["clip_id"]], row["path"])
        for row in rows
        if first.setdefault(row["clip_id"], row["path"]) != row["path"]
    ]
    if pairs:
        listed = "\n".join(f"  {a}\n  {b}" for a, b in pairs[:10])
        raise DataError(f"{len(pairs)} clips exist twice; remove one file of each pair, or name one root:\n{listed}")
