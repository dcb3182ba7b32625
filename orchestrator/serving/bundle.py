"""The model bundle: a plain folder of JSON, state dicts and float arrays that holds one system of a study.

manifest.json              what it is, machines with thresholds, members with recipes, SHA-256 of every file
references.npz             sorted scores of each machine's training clips: thresholds and percentiles refer to them
members/<hash>/            epoch_*.pt and backends_<key>.npz (or covariances_<key>.npz), as in the study's folder
"""

import io
import json
import os
import shutil
import uuid
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import StorageError
from orchestrator.serving.files import check_file, file_facts, read_arrays
from orchestrator.serving.manifest import MANIFEST, REFERENCES, BundleError, Manifest, Place, read_manifest
from orchestrator.serving.scorer import EnsembleScorer, Judge
from orchestrator.storage import Store

References = dict[Place, NDArray[np.float64]]


class Bundle(NamedTuple):
    """One system: what it is, where its members' files are, and each place's sorted training scores."""

    manifest: Manifest
    folder: Store
    references: References

    @classmethod
    def load(cls, folder: str | Path) -> "Bundle":
        """Check a bundle's folder, file by file, and read what is small. BundleError says what is wrong with it."""
        folder = Path(folder)
        manifest = read_manifest(folder)
        for name in manifest.names():
            check_file(folder, name, manifest.files.get(name))
        return cls(manifest, Store.at(folder), _references(folder, manifest))

    def scorer(self, device: str = "cpu") -> EnsembleScorer:
        """All networks in memory, on a device, ready to score."""
        judges = {
            Place(entry.machine, entry.section): Judge(
                entry.threshold, self.references[Place(entry.machine, entry.section)]
            )
            for entry in self.manifest.places
        }
        return EnsembleScorer(self.manifest, self.folder, judges, device)


def _references(folder: Path, manifest: Manifest) -> References:
    arrays = read_arrays(Store.at(folder), REFERENCES)
    places = [Place(entry.machine, entry.section) for entry in manifest.places]
    for place in places:
        scores = arrays.get(place.key, np.empty(0))
        if scores.ndim != 1 or not scores.size or not np.isfinite(scores).all():
            raise BundleError(f"{folder / REFERENCES} lacks the training scores of {place.key}; export the model again")
    return {place: np.sort(arrays[place.key].astype(np.float64)) for place in places}


def write_bundle(bundle: Bundle, out: str | Path) -> Path:
    """Copy a system into a folder of its own, which must not exist yet; it appears whole or not at all."""
    out = Path(out).absolute()
    if out.exists():
        raise StorageError(f"{out} exists; name a folder that does not, or remove it")
    part = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        _fill(bundle, part)
        os.replace(part, out)
    except OSError as error:
        raise StorageError(f"cannot write {out}: {error.strerror or error}; name another folder") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return out


def _fill(bundle: Bundle, part: Path) -> None:
    part.mkdir(parents=True)
    (part / REFERENCES).write_bytes(_npz({place.key: scores for place, scores in bundle.references.items()}))
    for name in bundle.manifest.names():
        if name != REFERENCES:
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            (part / name).write_bytes(bundle.folder.read(name))
    files = {name: file_facts(part / name) for name in bundle.manifest.names()}
    facts = bundle.manifest.model_copy(update={"files": files}).model_dump(mode="json")
    (part / MANIFEST).write_text(json.dumps(facts, indent=1) + "\n")


def _npz(arrays: dict[str, NDArray]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()
