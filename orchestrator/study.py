"""`run_study` executes a study. What may be wrong is found out first, and Ray starts while the rest is imported."""

import importlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TYPE_CHECKING

from orchestrator.config import Study
from orchestrator.data.audioset import external_shards
from orchestrator.data.dcase import find_clips
from orchestrator.loading import STUDY, study_store, study_yaml
from orchestrator.lock import only_writer
from orchestrator.mlflow_client import apply_defaults, import_mlflow
from orchestrator.provenance import PROVENANCE, program
from orchestrator.runtime import LOCAL, cluster_address, ray_session
from orchestrator.storage import Store

if TYPE_CHECKING:
    from orchestrator.stages import Outcome, View

HEAVY = ("torch", "scipy.stats", "sklearn.cluster")  # none of them imports Ray, or is imported by Ray's start
RESULTS = "results.csv"  # among the last things that a run writes


def run_study(study: Study, view: "View") -> "Outcome":
    """Execute a study: train and score what is missing, form the systems, write and track the results.

    Interrupted anywhere, the same call goes on where it was. TrainingError where a member could not be trained; the
    others are kept.
    """
    found = find_clips(study.data.root)  # before anything is written: a wrong folder leaves no trace
    shards = external_shards(study)
    for note in found.notes:
        view.say(f"note: {note}")
    store = study_store(study)
    with only_writer(store):
        store.write(STUDY, study_yaml(study).encode())
        store.write_json(PROVENANCE, program())
        with _started_early(study, store):
            from orchestrator.stages import execute

            return execute(study, store, found.clips, shards, view)


@contextmanager
def _started_early(study: Study, store: Store) -> Iterator[None]:
    """A local Ray that starts while this process imports, each for seconds and mostly on one core.

    Only where a study has no results yet: else there may be nothing to train.
    """
    if cluster_address(study.cluster) != LOCAL or store.exists(RESULTS):
        yield
        return
    apply_defaults()  # here: Ray's start sets and unsets one of them while the thread imports
    pool = ThreadPoolExecutor(1, thread_name_prefix="imports")
    try:
        imports = [pool.submit(importlib.import_module, name) for name in HEAVY]  # a fault shows at the real import
        if study.tracking.enabled:
            pool.submit(import_mlflow)
        with ray_session(study.cluster):
            wait(imports)
            yield
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
