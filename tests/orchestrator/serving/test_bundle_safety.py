"""A bundle may come from anywhere: whatever it holds, it is refused in words and nothing of it is run."""

import io
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from orchestrator.serving.bundle import Bundle
from orchestrator.serving.files import check_archive, file_facts
from orchestrator.serving.manifest import BundleError


@pytest.fixture
def copy(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "model"))


def refused(folder: Path, words: str) -> None:
    with pytest.raises(BundleError, match=words):
        Bundle.load(folder).scorer()


def edit(folder: Path, change: Callable[[Any], object]) -> None:
    path = folder / "manifest.json"
    facts = json.loads(path.read_text())
    change(facts)
    path.write_text(json.dumps(facts))


def forge(folder: Path, name: str, data: bytes) -> None:
    """Replace a file as an attacker would, with the manifest's word for it."""
    (folder / name).write_bytes(data)
    facts = file_facts(folder / name).model_dump()
    edit(folder, lambda manifest: manifest["files"].update({name: facts}))


def a_file(folder: Path, ending: str) -> str:
    return str(min(folder.rglob(f"*{ending}")).relative_to(folder))


def npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


class Evil:
    """Runs a command where it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self):
        return os.system, (f"touch {self.witness}",)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m["members"][0].update(hash="../../../../etc"), "members.0.hash: String should match pattern"),
        (lambda m: m.update(key="../../xx"), "key: String should match"),
        (lambda m: m["places"][0].update(machine="../fan"), r"places.0.machine: String should match"),
        (lambda m: m["places"][0].update(threshold=float("nan")), "places.0.threshold"),
        (lambda m: m.update(places=[]), "places: Tuple should have at least 1 item"),
        (lambda m: m.update(format=2), "format 2; this version reads 1"),
        (lambda m: m.update(extra=1), "extra: Extra inputs are not permitted"),
        (lambda m: m.update(output="mse"), "a extractor gives no mse"),
        (lambda m: m["members"].append(m["members"][0]), "named twice"),
        (lambda m: m["members"][0]["recipe"].update(branches=[{"kind": "stft", "n_fft": 256}] * 99), "more than 32"),
        (lambda m: m["members"][0]["recipe"].update(checkpoints=[10**9]), "lie outside epochs"),
        (lambda m: m["files"].clear(), "the manifest does not list references.npz"),
    ],
)
def test_an_odd_manifest(copy, change, words):
    edit(copy, change)
    refused(copy, words)


def test_a_manifest_that_is_none(copy, tmp_path):
    refused(tmp_path, "cannot read .*manifest.json: No such file")
    for text, words in (("{", "is not JSON"), ("[" * 100_000, "is not JSON"), ("[]", "not a valid manifest")):
        (copy / "manifest.json").write_text(text)
        refused(copy, words)
    with (copy / "manifest.json").open("wb") as file:
        file.truncate(17 << 20)  # sparse
    refused(copy, "more than any model needs")


def test_a_network_that_its_file_could_not_fill(copy):
    """262 million parameters are promised: nothing of that size is made."""
    name = a_file(copy, ".pt")
    member = name.split("/")[1]

    def grow(manifest):
        (entry,) = (one for one in manifest["members"] if one["hash"] == member)
        entry["recipe"].update(embedding_dim=4096, clip_seconds=10, branches=[{"kind": "stft", "n_fft": 16384}])

    edit(copy, grow)
    refused(copy, "the network of its recipe needs .* refused")


def test_a_file_that_is_not_what_the_manifest_says(copy):
    path = copy / a_file(copy, ".pt")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    refused(copy, f"has {len(whole) - 1} bytes, the manifest says {len(whole)}")
    path.write_bytes(whole[:-1] + b"x")
    refused(copy, "SHA-256 differs")
    path.unlink()
    refused(copy, "is missing; copy or export the model again")


def test_a_link_out_of_the_folder(copy, tmp_path):
    path = copy / a_file(copy, ".pt")
    path.rename(tmp_path / "elsewhere.pt")
    path.symlink_to(tmp_path / "elsewhere.pt")
    refused(copy, "a link that leaves the model's folder")


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_weights_that_run_code(copy, tmp_path, how):
    name, witness, buffer = a_file(copy, ".pt"), tmp_path / "it-ran", io.BytesIO()
    padding = torch.zeros((copy / name).stat().st_size // 4)
    if how == "torch":
        torch.save({"model": Evil(witness), "padding": padding}, buffer)
    else:
        pickle.dump({"model": Evil(witness), "padding": padding}, buffer)
    forge(copy, name, buffer.getvalue())
    refused(copy, "not the weights of its recipe|is damaged: File is not a zip file")
    assert not witness.exists()


def test_weights_of_another_network(copy):
    name, buffer = a_file(copy, ".pt"), io.BytesIO()
    torch.save({"model": {"x": torch.zeros((copy / name).stat().st_size // 4)}}, buffer)
    forge(copy, name, buffer.getvalue())
    refused(copy, "not the weights of its recipe: Error.s. in loading state_dict")


def test_arrays_that_run_code_or_promise_more_than_they_hold(copy):
    name = a_file(copy, "npz")
    objects = np.array([{"a": 1}], dtype=object)
    forge(copy, name, npz(x=objects))
    refused(copy, "is object of shape .1,., not a table of floats; refused")
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 40, 384)})
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("fan/00/1.npy", header.getvalue() + bytes(100))
    forge(copy, name, buffer.getvalue())
    refused(copy, "promises 1688849860263936 bytes; refused")


def test_references_of_another_shape_or_not_finite(copy):
    name = next(str(p.relative_to(copy)) for p in sorted(copy.rglob("backends_*.npz")))
    with np.load(copy / name) as kept:
        arrays = {key: kept[key] for key in kept.files}
    forge(copy, name, npz(**{key: value[:, :3] for key, value in arrays.items()}))
    refused(copy, r"references of fan/00 have shape \(\d+, 3\), not")
    forge(copy, name, npz(**{key: value * np.float32("nan") for key, value in arrays.items()}))
    refused(copy, "are not finite")
    forge(copy, name, npz(**{key: value for key, value in arrays.items() if "pump" not in key}))
    refused(copy, "no references for pump/00")


def test_training_scores_that_are_missing(copy):
    forge(copy, "references.npz", npz(**{"fan/00": np.ones(3)}))
    refused(copy, "lacks the training scores of fan/01")


def test_an_archive_that_would_blow_up(tmp_path):
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", bytes(1 << 20))
    with pytest.raises(BundleError, match="its parts unpack to more than the file holds"):
        check_archive(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(BundleError, match="is damaged"):
        check_archive(path)
