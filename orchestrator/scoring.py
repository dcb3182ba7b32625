"""From a trained member to one score per checkpoint and clip (spec §8).

Shapes: N clips, E = M * D size of z_cat.
"""

import io
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from models.backend import Backend, anomaly_scores, fit_backend
from orchestrator.config import BackendConfig, Recipe
from orchestrator.data.clips import by_place, fingerprint
from orchestrator.data.waves import WaveBank
from orchestrator.errors import TrainingError
from orchestrator.members import digest
from orchestrator.storage import Store
from orchestrator.training import clip_samples, load_checkpoint

SCORING_VERSION = 1
BATCH_CLIPS = 64

SCORE_SCHEMA = pa.schema(
    [
        ("member", pa.string()),
        ("seed", pa.int64()),
        ("epoch", pa.int32()),
        ("clip_id", pa.string()),
        ("score", pa.float64()),
    ]
)


def scoring_key(config: BackendConfig, clips: pa.Table) -> str:
    """What a score depends on besides its member: the backend, the training clips and the contents that are scored.

    The truth of test clips is no part of it: a truth table that comes later changes no score.
    """
    contents = sorted(zip(clips["clip_id"].to_pylist(), clips["digest"].to_pylist(), strict=True))
    train = fingerprint(clips.filter(pc.equal(clips["split"], "train")))
    return digest([SCORING_VERSION, config.model_dump(mode="json"), train, contents])[:8]


def scores_name(key: str) -> str:
    return f"scores_{key}.parquet"


def score_member(
    *,
    folder: Store,
    recipe: Recipe,
    seed: int,
    config: BackendConfig,
    bank: WaveBank,
    clips: pa.Table,
    on_step: Callable[[int], None] = lambda clips: None,
) -> None:
    """Embed all clips with every checkpoint in one pass, fit a backend per machine and section, write the scores.

    `clips` describes the bank's rows. The backends (the references in embedding space) are kept beside the scores.
    """
    key = scoring_key(config, clips)
    if folder.exists(scores_name(key)):
        return
    embeddings = embed_checkpoints(folder, recipe, bank, on_step)
    tables, references = [], {}
    for epoch, embed_NE in embeddings.items():
        score_N = np.full(len(embed_NE), np.nan)
        for place, rows in by_place(clips).items():
            backend = _fit(embed_NE[rows], clips.take(rows), config, seed)
            score_N[rows] = anomaly_scores(backend, embed_NE[rows])
            references["/".join([*place, str(epoch)])] = backend.references_RE
        columns = {
            "member": pa.repeat(folder.root.rsplit("/", 1)[-1], len(score_N)),
            "seed": pa.repeat(seed, len(score_N)),
            "epoch": pa.repeat(pa.scalar(epoch, pa.int32()), len(score_N)),
            "clip_id": clips["clip_id"],
            "score": score_N,
        }
        tables.append(pa.table(columns, schema=SCORE_SCHEMA))
    folder.write(f"backends_{key}.npz", _npz(references))
    folder.write_table(scores_name(key), pa.concat_tables(tables))


@torch.inference_mode()
def embed_checkpoints(
    folder: Store, recipe: Recipe, bank: WaveBank, on_step: Callable[[int], None] = lambda clips: None
) -> dict[int, NDArray[np.float32]]:
    """z_cat of every clip of the bank at each checkpoint: {epoch: (N, E)}; features are computed once for all."""
    models = {epoch: load_checkpoint(folder, recipe, epoch, bank.device) for epoch in recipe.checkpoints}
    features = next(iter(models.values())).features
    out: dict[int, list[NDArray[np.float32]]] = {epoch: [] for epoch in models}
    for rows in torch.arange(len(bank)).split(BATCH_CLIPS):
        wave_BT = bank.cut(rows, clip_samples(recipe))
        inputs = [feature(wave_BT) for feature in features]
        for epoch, model in models.items():
            out[epoch].append(model.embed(inputs).flatten(1).cpu().numpy())
        on_step(len(rows))
    embeddings = {epoch: np.concatenate(parts) for epoch, parts in out.items()}
    for epoch, embed_NE in embeddings.items():
        if not np.isfinite(embed_NE).all():
            raise TrainingError(
                f"{folder.root}: the embeddings of epoch {epoch} are not finite; lower the learning rate"
            )
    return embeddings


def _fit(embed_NE: NDArray[np.float32], clips: pa.Table, config: BackendConfig, seed: int) -> Backend:
    split, domain = clips["split"].to_numpy(zero_copy_only=False), clips["domain"].to_numpy(zero_copy_only=False)
    train = split == "train"
    target = train & (domain == "target")
    return fit_backend(
        embed_NE[train & ~target], embed_NE[target], clusters=config.clusters, n_init=config.n_init, seed=seed
    )


def few_clips_note(clips: pa.Table, config: BackendConfig) -> str | None:
    """A sentence on the machines whose source clips are too few for the asked number of clusters, if there are any."""
    split, domain = (clips[name].to_numpy(zero_copy_only=False) for name in ("split", "domain"))
    source = (split == "train") & (domain != "target")
    counts = {place: int(source[rows].sum()) for place, rows in by_place(clips).items()}
    few = {place: count for place, count in counts.items() if count < 2 * config.clusters}
    if not few:
        return None
    listed = ", ".join(f"{'/'.join(place)} ({count})" for place, count in few.items())
    return (
        f"few source training clips for backend.clusters={config.clusters}: {listed}. At most as many clusters as "
        "clips are used; clips that are their own centre score 0, so thresholds there say little"
    )


def _npz(arrays: dict[str, NDArray]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()
