"""Labels for machines that were recorded without attributes: Algorithm 1 between two encoders' spaces (spec §10).

Shapes: A training clips of a machine and section, D embedding size, K clusters, L labels.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.clustering import CLUSTERINGS
from orchestrator.config import PseudoLabelConfig
from orchestrator.data.clips import by_place
from orchestrator.data.true_attributes import read_true_attributes
from orchestrator.members import Member, digest
from orchestrator.pseudo_label_report import Agreement, agreement, draw_embeddings
from orchestrator.scoring import EMBEDDINGS
from orchestrator.storage import Store

TABLE = "pseudo_labels.parquet"
AGREEMENT = "agreement.csv"
CLUSTERING_VERSION = 1

PSEUDO_SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("machine", pa.string()),
        ("section", pa.string()),
        ("domain", pa.string()),
        ("cluster", pa.int32()),
        ("labels", pa.list_(pa.int32())),  # at least one; what eq. 16 takes the minimum over
    ]
)
EncoderPair = tuple[Member, Member]  # of the reference space, of the target space


class Judgement(NamedTuple):
    """How one machine (and section) was labelled, and how that agrees with the true attributes where they are known."""

    place: str
    clips: int
    clusters: int
    label_sets: int
    agreement: Agreement | None  # of the label sets


def pseudo_labels_key(config: PseudoLabelConfig, encoders: Mapping[str, EncoderPair]) -> str:
    """What the labels depend on: both encoders of every machine and how their spaces are clustered."""
    settings = config.model_dump(mode="json", exclude={"truth", "encoder", "seeds"})
    pairs = {machine: [member.hash for member in pair] for machine, pair in encoders.items()}
    return digest([CLUSTERING_VERSION, settings, pairs])[:12]


def read_pseudo_labels(folder: Store) -> dict[str, list[int]] | None:
    """Clip id -> pseudo-attributes, or None where they have not been made."""
    if not folder.exists(TABLE):
        return None
    table = folder.read_table(TABLE)
    return dict(zip(table["clip_id"].to_pylist(), table["labels"].to_pylist(), strict=True))


def make_pseudo_labels(
    config: PseudoLabelConfig, clips: pa.Table, encoders: Mapping[str, EncoderPair], study: Store, folder: Store
) -> list[Judgement]:
    """Label the training clips of every machine without attributes from its encoders' embeddings.

    Writes the table, a picture a machine and section, and how well the labels agree with the truth, if one is given.
    The table is written last: it says that the stage is done.
    """
    truth = read_true_attributes(config.truth) if config.truth else {}
    tables, judgements = [], []
    for machine, pair in encoders.items():
        train = clips.filter(pc.and_(pc.equal(clips["machine"], machine), pc.equal(clips["split"], "train")))
        for (_, section), rows in by_place(train).items():
            own = train.take(rows)
            reference_AD, target_AD = (_embeddings(member.folder(study), own["clip_id"]) for member in pair)
            table = _label(config, own, reference_AD, target_AD)
            place = f"{machine}_section_{section}"
            tables.append(table)
            judgements.append(_judge(place, table, own, target_AD, truth, folder))
    folder.write(AGREEMENT, _agreement_csv(judgements))
    folder.write_table(TABLE, pa.concat_tables(tables))
    return judgements


def _embeddings(folder: Store, clip_ids: pa.ChunkedArray) -> NDArray[np.float32]:
    table = folder.read_table(EMBEDDINGS)
    rows = pc.index_in(clip_ids, table["clip_id"].combine_chunks())
    return np.stack(table["embedding"].take(rows).to_numpy(zero_copy_only=False))


def _label(config: PseudoLabelConfig, clips: pa.Table, reference_AD: NDArray, target_AD: NDArray) -> pa.Table:
    """Cluster one machine and section, its domains together or apart (the class carries the domain either way)."""
    domain = clips["domain"].to_numpy(zero_copy_only=False)
    parts = [np.ones(len(clips), bool)] if config.domains == "together" else [domain == d for d in np.unique(domain)]
    cluster_A, labels_A = np.zeros(len(clips), np.int32), np.empty(len(clips), object)
    for part in parts:
        found = CLUSTERINGS[config.method](
            reference_AD[part],
            target_AD[part],
            clusters=config.clusters,
            threshold=config.threshold,
            n_init=config.n_init,
            seed=config.seeds[0],
        )
        cluster_A[part] = found.cluster_N
        for row, cluster in zip(np.flatnonzero(part), found.cluster_N, strict=True):
            labels_A[row] = np.flatnonzero(found.labels_KL[cluster]).tolist()
    columns = {name: clips[name] for name in ("clip_id", "machine", "section", "domain")}
    return pa.table({**columns, "cluster": cluster_A, "labels": labels_A.tolist()}, schema=PSEUDO_SCHEMA)


def _judge(
    place: str, table: pa.Table, clips: pa.Table, embed_AD: NDArray, truth: Mapping[tuple[str, str], str], folder: Store
) -> Judgement:
    texts = ["+".join(map(str, labels)) for labels in table["labels"].to_pylist()]
    set_A = np.unique(texts, return_inverse=True)[1]
    names = zip(clips["machine"].to_pylist(), clips["file_name"].to_pylist(), strict=True)
    true_A = [truth.get((machine, Path(name).stem)) for machine, name in names]
    known = np.array([name for name in true_A if name is not None])
    whole = len(known) == len(true_A)
    picture = draw_embeddings(embed_AD, set_A, texts, known.tolist() if whole else None, place.replace("_", " "))
    folder.write(f"{place}.png", picture)
    clusters = len(set(table["cluster"].to_pylist()))
    return Judgement(place, len(table), clusters, len(set(texts)), agreement(set_A, known) if whole else None)


def _agreement_csv(judgements: Sequence[Judgement]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["machine_section", "clips", "clusters", "label_sets", "ari", "nmi"])
    for j in judgements:
        found = [f"{j.agreement.ari:.4f}", f"{j.agreement.nmi:.4f}"] if j.agreement else ["", ""]
        writer.writerow([j.place, j.clips, j.clusters, j.label_sets, *found])
    return text.getvalue().encode()


def agreement_metrics(folder: Store) -> dict[str, float]:
    """What AGREEMENT says, as metrics such as `gearbox_section_00/ari`."""
    rows = csv.DictReader(io.StringIO(folder.read(AGREEMENT).decode()))
    names = ("clusters", "label_sets", "ari", "nmi")
    return {f"{row['machine_section']}/{name}": float(row[name]) for row in rows for name in names if row[name]}
