"""What a member is, what it is called on disk, and what is already there of it."""

import hashlib
import json
from typing import Any, NamedTuple

from orchestrator.recipes import Recipe
from orchestrator.storage import Store

SCIENCE_VERSION = 2  # raise it when a change of ours changes what a recipe trains to; CHANGELOG.md says so
DONE = "done.json"
LAST = "last.pt"  # the state after the last epoch but the final one
PROGRESS = "progress.json"  # which epoch that is


def digest(value: Any) -> str:
    """A short hash of anything JSON can hold, independent of key order."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Member(NamedTuple):
    """One (recipe, seed) on one data set: the unit that is trained, kept and averaged."""

    group: str
    seed: int
    recipe: Recipe
    classes: str  # digest of the label sets; empty for networks that learn no classes
    data: str  # fingerprint of the training clips
    machine: str = ""  # for networks of one machine alone

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that decides the weights; nothing of where or how fast it runs, nor of what it is called.

        Pseudo-labels and core-set count by what they are, in `classes` and `data`, not by being asked for: a group
        whose core-set came out empty has the members of the group without.
        """
        return {
            "science": SCIENCE_VERSION,
            "recipe": self.recipe.model_dump(mode="json", exclude={"pseudo_labels", "core_set"}),
            "seed": self.seed,
            "classes": self.classes,
            "data": self.data,
            "machine": self.machine,
        }

    @property
    def series(self) -> str:
        """Members of one series score different machines: together they score every clip once a checkpoint."""
        return digest({**self.identity, "machine": "", "data": ""}) if self.machine else self.hash

    @property
    def title(self) -> str:
        """How displays call it."""
        return " ".join([self.group, *([self.machine] if self.machine else []), f"seed {self.seed}"])

    @property
    def hash(self) -> str:
        return digest(self.identity)

    def folder(self, study: Store) -> Store:
        return study.child("members", self.hash)


def is_done(folder: Store) -> bool:
    """Trained to the end: the marker is written last, so a folder that merely exists is not done."""
    return folder.exists(DONE)


def last_epoch(folder: Store) -> int:
    """Epochs whose state is kept, 0 where there are none."""
    if not folder.exists(LAST):
        return 0
    return int(folder.read_json(PROGRESS)["epoch"]) if folder.exists(PROGRESS) else 0


def checkpoint_name(epoch: int) -> str:
    return f"epoch_{epoch:03d}.pt"
