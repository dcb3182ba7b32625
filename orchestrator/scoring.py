"""From a trained member to what later stages read: scores of clips, or an encoder's embeddings (spec §8, §10, §13).

Shapes: N clips, E = M * D size of z_cat.
"""

import io
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from models.backend import Backend, anomaly_scores, fit_backend
from orchestrator.config import BackendConfig
from orchestrator.data.clips import by_place, fingerprint
from orchestrator.data.waves import WaveBank
from orchestrator.errors import TrainingError
from orchestrator.members import Member, digest
from orchestrator.recipes import AutoencoderRecipe, EncoderRecipe, ExtractorRecipe
from orchestrator.storage import Store
from orchestrator.trainees.autoencoder import score_clips
from orchestrator.trainees.encoder import batch_clips, embed_clips
from orchestrator.trainees.extractor import clip_samples, embed_by_each, load_extractor

FEW_A_CLUSTER = 3  # source clips: with fewer many are a centre of their own
SCORING_VERSION = 2
EMBEDDINGS = "embeddings.parquet"

SCORE_SCHEMA = pa.schema(
    [
        ("member", pa.string()),
        ("seed", pa.int64()),
        ("epoch", pa.int32()),
        ("output", pa.string()),  # distance, mse or mahalanobis
        ("clip_id", pa.string()),
        ("score", pa.float64()),
    ]
)
EMBEDDING_SCHEMA = pa.schema([("clip_id", pa.string()), ("embedding", pa.list_(pa.float32()))])


class Scoring(NamedTuple):
    """What members are asked for: the clips (rows 0, 1, ... of the bank), the backend, and the key of both."""

    clips: pa.Table
    backend: BackendConfig
    key: str


def scoring_key(config: BackendConfig, clips: pa.Table) -> str:
    """What a score depends on besides its member: the backend, the training clips and the contents that are scored.

    The truth of test clips is no part of it: a truth table that comes later changes no score.
    """
    contents = sorted(zip(clips["clip_id"].to_pylist(), clips["digest"].to_pylist(), strict=True))
    train = fingerprint(clips.filter(pc.equal(clips["split"], "train")))
    return digest([SCORING_VERSION, config.model_dump(mode="json"), train, contents])[:8]


def output_name(member: Member, key: str) -> str:
    """The file in a member's folder that says that it is through: scores, or an encoder's embeddings."""
    return EMBEDDINGS if isinstance(member.recipe, EncoderRecipe) else f"scores_{key}.parquet"


def score_member(
    member: Member, folder: Store, scoring: Scoring, bank: WaveBank, on_step: Callable[[int], None] = lambda clips: None
) -> None:
    """Write what a trained member gives; what is there already is not made again."""
    name = output_name(member, scoring.key)
    if folder.exists(name):
        return
    if isinstance(member.recipe, EncoderRecipe):
        table = _encoder_embeddings(member, member.recipe, folder, scoring, bank)
    elif isinstance(member.recipe, AutoencoderRecipe):
        table = _autoencoder_scores(member, member.recipe, folder, scoring, bank)
    else:
        table = _extractor_scores(member, member.recipe, folder, scoring, bank, on_step)
    folder.write_table(name, table)


def _extractor_scores(
    member: Member,
    recipe: ExtractorRecipe,
    folder: Store,
    scoring: Scoring,
    bank: WaveBank,
    on_step: Callable[[int], None],
) -> pa.Table:
    """Embed all clips with every checkpoint in one pass, fit a backend per machine and section, score.

    The backends (the references in embedding space) are kept beside the scores.
    """
    clips, tables, references = scoring.clips, [], {}
    for epoch, embed_NE in embed_checkpoints(folder, recipe, bank, len(clips), on_step).items():
        score_N = np.full(len(clips), np.nan)
        for place, rows in by_place(clips).items():
            backend = _fit(embed_NE[rows], clips.take(rows), scoring.backend, member.seed)
            score_N[rows] = anomaly_scores(backend, embed_NE[rows])
            references["/".join([*place, str(epoch)])] = backend.references_RE
        tables.append(_score_table(member, epoch, clips["clip_id"], {"distance": score_N}))
    folder.write(f"backends_{scoring.key}.npz", _npz(references))
    return pa.concat_tables(tables)


def _autoencoder_scores(
    member: Member, recipe: AutoencoderRecipe, folder: Store, scoring: Scoring, bank: WaveBank
) -> pa.Table:
    rows = np.flatnonzero(scoring.clips["machine"].to_numpy(zero_copy_only=False) == member.machine)
    clips = scoring.clips.take(rows)
    scores = score_clips(folder, recipe, bank, rows, train=_flags(clips, "split", "train"), target=_target(clips))
    return _score_table(member, recipe.epochs, clips["clip_id"], scores)


def _encoder_embeddings(
    member: Member, recipe: EncoderRecipe, folder: Store, scoring: Scoring, bank: WaveBank
) -> pa.Table:
    """Embeddings of the machine's training clips: the space in which pseudo-labels are found."""
    own = _flags(scoring.clips, "machine", member.machine) & _flags(scoring.clips, "split", "train")
    rows = np.flatnonzero(own)
    embed_AD = embed_clips(folder, recipe, bank, torch.from_numpy(rows))
    _check_finite(embed_AD, folder, recipe.epochs)
    columns = {"clip_id": scoring.clips["clip_id"].take(rows), "embedding": list(embed_AD)}
    return pa.table(columns, schema=EMBEDDING_SCHEMA)


def _score_table(
    member: Member, epoch: int, clip_ids: pa.ChunkedArray, scores: Mapping[str, NDArray[np.float64]]
) -> pa.Table:
    tables = []
    for output, score_N in scores.items():
        columns = {
            "member": pa.repeat(member.hash, len(score_N)),
            "seed": pa.repeat(member.seed, len(score_N)),
            "epoch": pa.repeat(pa.scalar(epoch, pa.int32()), len(score_N)),
            "output": pa.repeat(output, len(score_N)),
            "clip_id": clip_ids,
            "score": score_N,
        }
        tables.append(pa.table(columns, schema=SCORE_SCHEMA))
    return pa.concat_tables(tables)


@torch.inference_mode()
def embed_checkpoints(
    folder: Store,
    recipe: ExtractorRecipe,
    bank: WaveBank,
    clips: int,
    on_step: Callable[[int], None] = lambda clips: None,
) -> dict[int, NDArray[np.float32]]:
    """z_cat of the bank's first `clips` rows at each checkpoint: {epoch: (N, E)}; features are computed once."""
    models = {epoch: load_extractor(folder, recipe, epoch, bank.device) for epoch in recipe.checkpoints}
    out: dict[int, list[NDArray[np.float32]]] = {epoch: [] for epoch in models}
    for rows in torch.arange(clips).split(batch_clips(bank.device)):
        wave_BT = bank.cut(rows, clip_samples(recipe))
        for parts, embed_BE in zip(out.values(), embed_by_each([*models.values()], wave_BT), strict=True):
            parts.append(embed_BE)
        on_step(len(rows))
    embeddings = {epoch: np.concatenate(parts) for epoch, parts in out.items()}
    for epoch, embed_NE in embeddings.items():
        _check_finite(embed_NE, folder, epoch)
    return embeddings


def _check_finite(embed_NE: NDArray[np.float32], folder: Store, epoch: int) -> None:
    if not np.isfinite(embed_NE).all():
        raise TrainingError(f"{folder.root}: the embeddings of epoch {epoch} are not finite; lower the learning rate")


def load_backends(folder: Store, key: str, epoch: int) -> dict[tuple[str, str], Backend]:
    """The backends of one checkpoint as `score_member` kept them: {(machine, section): references}."""
    with np.load(io.BytesIO(folder.read(f"backends_{key}.npz")), allow_pickle=False) as kept:
        names = [name for name in kept.files if name.endswith(f"/{epoch}")]
        return {(name.split("/")[0], name.split("/")[1]): Backend(kept[name], len(kept[name])) for name in names}


def _fit(embed_NE: NDArray[np.float32], clips: pa.Table, config: BackendConfig, seed: int) -> Backend:
    train, target = _flags(clips, "split", "train"), _target(clips)
    return fit_backend(
        embed_NE[train & ~target], embed_NE[train & target], clusters=config.clusters, n_init=config.n_init, seed=seed
    )


def _flags(clips: pa.Table, column: str, value: str) -> NDArray[np.bool_]:
    return np.asarray(clips[column].to_numpy(zero_copy_only=False) == value)


def _target(clips: pa.Table) -> NDArray[np.bool_]:
    return _flags(clips, "domain", "target")


def few_clips_note(clips: pa.Table, config: BackendConfig) -> str | None:
    """A sentence on the machines whose source clips are too few for the asked number of clusters, if there are any."""
    source = _flags(clips, "split", "train") & ~_target(clips)
    counts = {place: int(source[rows].sum()) for place, rows in by_place(clips).items()}
    few = {place: count for place, count in counts.items() if count < FEW_A_CLUSTER * config.clusters}
    if not few:
        return None
    listed = ", ".join(f"{'/'.join(place)} ({count})" for place, count in few.items())
    return (
        f"few source training clips for backend.clusters={config.clusters}: {listed}. Clips that are their own centre "
        "score 0, so thresholds there come out low and nearly every clip is called anomalous; with "
        f"backend.clusters={max(1, min(few.values()) // FEW_A_CLUSTER)} this is better, and nothing is trained again"
    )


def _npz(arrays: dict[str, NDArray]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()
