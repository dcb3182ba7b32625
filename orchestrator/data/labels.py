"""The classes that an extractor learns to tell apart, and which of them each training clip may have.

A clip has the class (machine, section, attribute, domain). Where pseudo-labels are used, a clip of a machine without
attributes has a set of them; an external clip has a class of its own kind.

Shapes: A training clips, C classes.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from orchestrator.errors import DataError

CLASS_COLUMNS = ("machine", "section", "attribute", "domain")
PSEUDO = "pseudo_{:02d}"


@dataclass(frozen=True)
class LabelSets:
    """Training clips and the classes that each may have, by name ("machine|section|attribute|domain").

    Classes sort by code point, so the same data gives the same indices wherever it is read.
    """

    clip_ids: tuple[str, ...]
    names: tuple[tuple[str, ...], ...]  # at least one a clip

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Every class that occurs, in the order of the output units."""
        return tuple(sorted({name for names in self.names for name in names}))

    @cached_property
    def digest(self) -> str:
        """Identity of the classes and of who has which: 32 hex digits, whatever the order of clips."""
        rows = sorted((clip, sorted(names)) for clip, names in zip(self.clip_ids, self.names, strict=True))
        return hashlib.blake2b(json.dumps(rows).encode(), digest_size=16).hexdigest()

    def matrix(self) -> NDArray[np.bool_]:
        """The label sets: bool (A, C)."""
        index = {name: position for position, name in enumerate(self.classes)}
        labels_AC = np.zeros((len(self.names), len(self.classes)), bool)
        for row, names in zip(labels_AC, self.names, strict=True):
            row[[index[name] for name in names]] = True
        return labels_AC


def label_sets(
    train: pa.Table, pseudo: Mapping[str, Sequence[int]] | None = None, external: pa.Table | None = None
) -> LabelSets:
    """The classes of training clips (148 on DCASE 2024), then of external ones.

    `pseudo` maps clip ids to pseudo-attributes, which replace the attribute. `external` has clip_id, mid and machine.
    DataError where there is no clip.
    """
    if not len(train):
        raise DataError(
            "no usable training clip, so there is no class to learn; see what was found with: asd scan ROOT"
        )
    ids, names = [], []
    for row in train.select(["clip_id", *CLASS_COLUMNS]).to_pylist():
        attributes = [PSEUDO.format(n) for n in (pseudo or {}).get(row["clip_id"], ())] or [row["attribute"]]
        ids.append(row["clip_id"])
        names.append(tuple("|".join([row["machine"], row["section"], a, row["domain"]]) for a in attributes))
    for row in external.select(["clip_id", "mid", "machine"]).to_pylist() if external is not None else []:
        ids.append(row["clip_id"])
        names.append((f"external||{row['mid']}+{row['machine']}|",))
    return LabelSets(tuple(ids), tuple(names))
