"""What a model bundle says of itself in manifest.json; every value is checked before any file is opened by its name."""

import json
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, ValidationError, model_validator

from orchestrator.errors import UserError
from orchestrator.members import checkpoint_name
from orchestrator.recipes import AutoencoderRecipe, ExtractorRecipe, Frozen, GroupRecipe, Name

MANIFEST = "manifest.json"
REFERENCES = "references.npz"
FORMAT = 1
MOST_BYTES = 16 << 20  # of a manifest: thousands of members and machines
MOST_BRANCHES = 32

Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Folder = Annotated[str, Field(pattern=r"^[^/\\\x00-\x1f]+$", max_length=255)]  # a machine is called like its folder


class BundleError(UserError):
    """A model bundle is damaged, or no model bundle."""


class Place(NamedTuple):
    """A machine and one of its sections."""

    machine: str
    section: str

    @property
    def key(self) -> str:
        """How arrays of this place are called in an .npz file."""
        return f"{self.machine}/{self.section}"


class PlaceEntry(Frozen):
    """A machine's section, and the score above which one of its clips is called anomalous."""

    machine: Folder
    section: Annotated[str, Field(pattern=r"^\d{1,9}$")]
    threshold: Finite


class MemberEntry(Frozen):
    """One trained member; its files lie in members/<hash>, as in a study's folder."""

    hash: Hash
    group: Name
    seed: int
    machine: str = ""  # of an autoencoder, which knows one machine only
    recipe: GroupRecipe

    @property
    def folder(self) -> str:
        return f"members/{self.hash}"

    def files(self, key: str, output: str) -> list[str]:
        """Names of all its files."""
        weights = [checkpoint_name(epoch) for epoch in self.recipe.checkpoints]
        return [f"{self.folder}/{name}" for name in (*weights, *self.arrays(key, output))]

    def arrays(self, key: str, output: str) -> list[str]:
        """Its files besides the weights: references in embedding space, or covariances of errors."""
        kind = {"distance": "backends", "mahalanobis": "covariances"}.get(output)
        return [f"{kind}_{key}.npz"] if kind else []


class FileEntry(Frozen):
    """What a file must be: bytes and SHA-256."""

    bytes: int = Field(ge=0)
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Manifest(Frozen):
    """One system of one study."""

    format: Literal[1]
    study: Name
    system: Name
    title: str = Field(max_length=120)
    output: Literal["distance", "mse", "mahalanobis"]
    key: Annotated[str, Field(pattern=r"^[0-9a-f]{8}$")]  # of the study's scores, part of file names
    training_data: str = Field(max_length=64, description="fingerprint of the training clips")
    code: str = Field(max_length=100, description="version that wrote the bundle")
    min_seconds: float = Field(gt=0, le=10, description="shorter recordings are refused, as in the study")
    percentile: float = Field(gt=0, lt=100, description="of the gamma fitted to source training scores")
    places: tuple[PlaceEntry, ...] = Field(min_length=1)
    members: tuple[MemberEntry, ...] = Field(min_length=1)
    files: dict[str, FileEntry] = Field({}, description="of every file but the manifest; empty while in the study")

    @model_validator(mode="after")
    def _consistent(self) -> "Manifest":
        wanted = ExtractorRecipe if self.output == "distance" else AutoencoderRecipe
        for member in self.members:
            if not isinstance(member.recipe, wanted):
                raise ValueError(f"member {member.hash}: a {member.recipe.kind} gives no {self.output}")
            if isinstance(member.recipe, ExtractorRecipe) and len(member.recipe.branches) > MOST_BRANCHES:
                raise ValueError(f"member {member.hash}: more than {MOST_BRANCHES} branches")
        hashes, places = [member.hash for member in self.members], [(p.machine, p.section) for p in self.places]
        if len(set(hashes)) < len(hashes) or len(set(places)) < len(places):
            raise ValueError("a member or a machine's section is named twice")
        machines = {machine for machine, _ in places}
        if self.output != "distance" and {member.machine for member in self.members} != machines:
            raise ValueError("every machine needs a network, and every network a machine")
        return self

    def names(self) -> list[str]:
        """All files of the bundle besides the manifest: made from checked values, never read from the manifest."""
        return [REFERENCES, *(name for member in self.members for name in member.files(self.key, self.output))]

    @property
    def machines(self) -> tuple[str, ...]:
        return tuple(sorted({place.machine for place in self.places}))


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a bundle; BundleError says what is wrong with it."""
    path = folder / MANIFEST
    try:
        if path.stat().st_size > MOST_BYTES:
            raise BundleError(f"{path} has {path.stat().st_size} bytes, more than any model needs; is it one of ours?")
        facts = json.loads(path.read_bytes())
        if isinstance(facts, dict) and facts.get("format", FORMAT) != FORMAT:
            raise BundleError(
                f"{path}: format {facts['format']!r}; this version reads {FORMAT}. Export the model again"
            )
        return Manifest.model_validate(facts)
    except OSError as error:
        raise BundleError(
            f"cannot read {path}: {error.strerror}; make a model with `asd export STUDY SYSTEM`"
        ) from None
    except ValidationError as error:
        said = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()[:5]]
        raise BundleError(f"{path} is not a valid manifest: {'; '.join(said)}. Export the model again") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, BundleError):
            raise
        raise BundleError(f"{path} is not JSON: {error}. Export the model again") from None
