"""Write a made-up factory to disk: clips, attribute tables, truths, external audio, and last a marker."""

import csv
import json
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import soundfile as sf

from orchestrator.data.synth.clips import ClipPlan, ClipTruth, plan_clips, render_clip
from orchestrator.data.synth.external import external_files, write_external
from orchestrator.data.synth.faults import plan_faults, write_fault
from orchestrator.data.synth.options import FactoryOptions
from orchestrator.data.synth.signals import SAMPLE_RATE
from orchestrator.errors import StorageError

FORMAT = 1  # raise when the same options would give other bytes
MARKER, UNFINISHED = "factory.json", "factory.unfinished.json"
TRUE_ATTRIBUTES, TRUTH, PLANTED = "true_attributes.csv", "synth_truth.csv", "planted_faults.csv"
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class FactorySummary:
    """What a factory folder holds; `made` is False when it was already there."""

    folder: Path
    machines: tuple[str, ...]
    clips: int
    external: int
    planted: int
    made: bool


def make_factory(
    folder: Path, options: FactoryOptions, workers: int = 1, progress: Progress = lambda what, done, total: None
) -> FactorySummary:
    """Make the factory in `folder`, or say that it is already there; the bytes depend on the options alone.

    `workers` is the number of threads, `progress(what, done, total)` is called after each clip. An interrupted run
    is made good by running it again. Raises `StorageError` where the folder holds anything else.
    """
    clips, faults = plan_clips(options), plan_faults(options)
    files = owned_files(options, clips + [fault.clip for fault in faults])
    summary = (folder, options.machines, len(clips), options.external, len(faults))
    if is_there(folder, options, files):
        return FactorySummary(*summary, made=False)
    refuse_foreign(folder, files)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / UNFINISHED, _identity(options))
    truths = _write_clips(folder, clips, options, workers, progress)
    for fault in faults:
        write_fault(folder / fault.clip.path, fault, options)
    write_tables(folder, options, clips + [fault.clip for fault in faults], truths)
    if faults:
        write_csv(folder / PLANTED, ("file", "kind"), [(fault.clip.path, fault.kind) for fault in faults])
    write_external(folder, options, lambda done, total: progress("external", done, total))
    os.replace(folder / UNFINISHED, folder / MARKER)
    return FactorySummary(*summary, made=True)


def owned_files(options: FactoryOptions, clips: Sequence[ClipPlan]) -> set[str]:
    """Relative paths of all that the generator writes, its marker aside."""
    tables = {f"{machine}/attributes_00.csv" for machine in options.machines} | {TRUE_ATTRIBUTES, TRUTH}
    planted = {PLANTED} if options.plant_faults else set()
    return tables | planted | {clip.path for clip in clips} | set(external_files(options))


def is_there(folder: Path, options: FactoryOptions, files: set[str]) -> bool:
    """Whether the same factory is complete; raises `StorageError` where another one is, naming the difference."""
    for name in (MARKER, UNFINISHED):
        if (folder / name).is_file():
            _refuse_other(folder / name, options)
    return (folder / MARKER).is_file() and all((folder / name).is_file() for name in files)


def _refuse_other(marker: Path, options: FactoryOptions) -> None:
    asked = json.loads(_identity(options))
    try:
        found = json.loads(marker.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise StorageError(f"{marker} is not readable as a factory's marker: give another folder to asd synth")
    keys = sorted(key for key in asked.keys() | found.keys() if asked.get(key) != found.get(key))
    if keys:
        lines = "\n".join(f"  {key}: there {found.get(key)}, asked {asked.get(key)}" for key in keys)
        raise StorageError(
            f"{marker.parent} holds a factory made with other options:\n{lines}\n"
            "run asd synth with another folder, or with the options that are there"
        )


def refuse_foreign(folder: Path, files: set[str]) -> None:
    """Raise `StorageError` where the folder holds files that the generator did not write, or without its marker."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise StorageError(f"{folder} is not a folder: give asd synth the path of a new folder")
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    ours = files | {MARKER, UNFINISHED}
    foreign = sorted(present - ours) if present & {MARKER, UNFINISHED} else sorted(present)
    if foreign:
        shown = ", ".join(foreign[:5]) + (f" and {len(foreign) - 5} more" if len(foreign) > 5 else "")
        raise StorageError(
            f"{folder} holds files that this factory did not write: {shown}\n"
            "nothing was changed; run asd synth with a new or an empty folder"
        )


def _identity(options: FactoryOptions) -> str:
    return json.dumps({"format": FORMAT, **options.model_dump(mode="json")}, indent=2) + "\n"


def _write_clips(
    folder: Path, clips: Sequence[ClipPlan], options: FactoryOptions, workers: int, progress: Progress
) -> list[ClipTruth]:
    for place in {(folder / clip.path).parent for clip in clips}:
        place.mkdir(parents=True, exist_ok=True)

    def make(clip: ClipPlan) -> ClipTruth:
        wave_T, truth = render_clip(clip, options)
        sf.write(folder / clip.path, wave_T, SAMPLE_RATE, subtype="PCM_16", format="WAV")
        return truth

    truths = []
    with ThreadPoolExecutor(max(1, workers)) as pool:  # numpy's transforms release the interpreter lock
        for done, truth in enumerate(pool.map(make, clips), 1):
            truths.append(truth)
            progress("clips", done, len(clips))
    return truths


def write_tables(folder: Path, options: FactoryOptions, clips: Sequence[ClipPlan], truths: Sequence[ClipTruth]) -> None:
    """Write the released attribute tables, the hidden attributes, and what was drawn for each clip."""
    for machine in options.machines:
        rows = [attribute_row(clip) for clip in clips if clip.machine == machine]
        pairs = (max(map(len, rows)) - 1) // 2
        header = ("file_name", *(f"d{i}{part}" for i in range(1, pairs + 1) for part in "pv"))
        write_csv(folder / machine / "attributes_00.csv", header, rows)
    hidden = [(c.machine, c.split, c.file_name, c.true_attribute) for c in clips]
    write_csv(folder / TRUE_ATTRIBUTES, ("machine", "split", "file_name", "true_attribute"), hidden)
    drawn = [(t.path, t.true_attribute, t.snr_db, t.fault, t.strength) for t in truths]
    write_csv(folder / TRUTH, ("file", "true_attribute", "snr_db", "fault", "strength"), drawn)


def attribute_row(clip: ClipPlan) -> tuple[str, ...]:
    """One row of attributes_00.csv: path, then name and value of each attribute, or noAttribute and nothing."""
    shown = clip.condition.items() if clip.shows_attributes else [("noAttribute", "")]
    return (clip.path, *(text for pair in shown for text in pair))


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV with Unix line ends."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def write_atomically(path: Path, text: str) -> None:
    """Write a small file so that a reader sees all of it or nothing."""
    scratch = path.with_name(path.name + ".tmp")
    scratch.write_text(text, encoding="utf-8")
    os.replace(scratch, path)
