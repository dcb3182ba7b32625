"""All members of a system in memory: waveforms in, scores, decisions and percentiles out.

Shapes: B clips, K members x checkpoints, E = M * D size of z_cat, R references.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from orchestrator.data.packing import pack
from orchestrator.data.waves import WaveBank
from orchestrator.errors import DataError
from orchestrator.serving.autoencoders import AutoencoderEnsemble
from orchestrator.serving.extractors import ExtractorEnsemble
from orchestrator.serving.manifest import Manifest, Place
from orchestrator.storage import Store

Wave = NDArray[np.int16]  # (samples,) at 16 kHz
Scores = NDArray[np.float64]


class Judge(NamedTuple):
    """What a score of a place is held against."""

    threshold: float
    reference: Scores  # sorted: scores of the source training clips, which the threshold comes from too


class Scored(NamedTuple):
    """One row per clip: (B,) each; an anomaly scores above its threshold."""

    score: Scores
    threshold: Scores
    anomaly: NDArray[np.bool_]
    percentile: Scores  # percent of the reference clips that score no higher


class Ensemble(Protocol):
    """The networks of a system."""

    most_samples: int | None  # what they look at of a clip, from its start; None: all of it

    def mean_scores(self, bank: WaveBank, places: Sequence[Place]) -> Scores: ...


class EnsembleScorer:
    """Scores clips as the study did, to 1e-5: the mean over members and checkpoints (spec §9, §12)."""

    def __init__(self, manifest: Manifest, folder: Store, judges: Mapping[Place, Judge], device: str = "cpu") -> None:
        self.manifest, self.judges, self.device = manifest, dict(judges), device
        make = ExtractorEnsemble if manifest.output == "distance" else AutoencoderEnsemble
        self.ensemble: Ensemble = make(manifest, folder, tuple(self.judges), device)
        self.sections: dict[str, list[str]] = {}
        for place in sorted(self.judges):
            self.sections.setdefault(place.machine, []).append(place.section)

    @property
    def machines(self) -> tuple[str, ...]:
        return tuple(self.sections)

    def place(self, machine: str, section: str | None = None) -> Place:
        """The machine's section: the only one, or the one that is named. DataError names what the model knows."""
        known = self.sections.get(machine)
        if known is None:
            raise DataError(f"machine {machine!r} is unknown to this model; it knows {', '.join(self.machines)}")
        if len(known) == 1:
            return Place(machine, known[0])
        if section not in known:
            raise DataError(f"{machine} needs one of its sections {', '.join(known)}, not {section!r}")
        return Place(machine, section)

    def score(
        self, waves: Sequence[Wave], machines: Sequence[str], sections: Sequence[str | None] | None = None
    ) -> Scored:
        """Score clips (int16, 16 kHz), each as a recording of its machine; all members see a clip's features once."""
        named = sections if sections is not None else [None] * len(waves)
        places = [self.place(machine, section) for machine, section in zip(machines, named, strict=True)]
        if len(waves) != len(places):
            raise ValueError(f"{len(waves)} waveforms and {len(places)} machines")
        if not waves:
            return Scored(np.empty(0), np.empty(0), np.empty(0, np.bool_), np.empty(0))
        most = self.ensemble.most_samples
        bank = WaveBank([pack([wave[:most] for wave in waves])], self.device)
        with torch.inference_mode():
            score_B = self.ensemble.mean_scores(bank, places)
        threshold_B = np.array([self.judges[place].threshold for place in places])
        below = [_share_below(self.judges[p].reference, score) for p, score in zip(places, score_B, strict=True)]
        return Scored(score_B, threshold_B, score_B > threshold_B, np.array(below))


def _share_below(reference: Scores, score: float) -> float:
    return 100.0 * float(np.searchsorted(reference, score, side="right")) / len(reference)
