"""The classes that an extractor learns to tell apart: every (machine, section, attribute, domain) seen in training."""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from orchestrator.errors import DataError

CLASS_COLUMNS = ("machine", "section", "attribute", "domain")


@dataclass(frozen=True)
class Vocabulary:
    """The ordered classes; a class is the string "machine|section|attribute|domain", its index the output unit.

    Names sort by code point, so the same data gives the same indices wherever it is read.
    """

    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.class_names)

    @cached_property
    def digest(self) -> str:
        """Identity of the classes and their order: 32 hex digits."""
        return hashlib.blake2b("\n".join(self.class_names).encode(), digest_size=16).hexdigest()

    def indices(self, clips: pa.Table) -> NDArray[np.int64]:
        """Class of every row of a clip table: int64 (rows,). DataError where a class was not in the training clips."""
        index = {name: position for position, name in enumerate(self.class_names)}
        names = class_names(clips)
        unknown = sorted(set(names) - index.keys())
        if unknown:
            raise DataError(
                f"{len(unknown)} classes are not among the {len(self)} of the training clips, for example "
                f"{', '.join(unknown[:5])}; give labels to training clips only, or scan the folders again (asd scan)"
            )
        return np.array([index[name] for name in names], dtype=np.int64)


def class_names(clips: pa.Table) -> list[str]:
    """The class "machine|section|attribute|domain" of every row."""
    columns = [clips[name].to_pylist() for name in CLASS_COLUMNS]
    return ["|".join(parts) for parts in zip(*columns, strict=True)]


def build_vocabulary(clips: pa.Table) -> Vocabulary:
    """Collect the classes of the usable training clips (148 on DCASE 2024); test clips never add one."""
    rows = zip(class_names(clips), clips["split"].to_pylist(), clips["problem"].to_pylist(), strict=True)
    names = {name for name, split, problem in rows if split == "train" and not problem}
    if not names:
        raise DataError(
            "no usable training clip, so there is no class to learn; see what was found with: asd scan ROOT"
        )
    return Vocabulary(tuple(sorted(names)))
