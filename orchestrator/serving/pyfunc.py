"""The servable model as MLflow runs it: this file is the model's code, the bundle beside it its weights.

In: a table of `machine`, `audio` (bytes of a WAV or FLAC file; base64 in JSON) and, where a machine has several,
`section`. Out: a row each with `score`, `threshold`, `decision`, `percentile` and `problem`.
"""

from pathlib import Path

import mlflow
import pandas as pd
from mlflow.pyfunc import PythonModel, PythonModelContext

COLUMNS = ["score", "threshold", "decision", "percentile", "problem"]


class EnsembleModel(PythonModel):
    """A system of a study; needs neither Ray nor the study's folder."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load all networks; `model_config` may name a `device`."""
        import models
        import orchestrator

        ours, theirs = (Path(package.__path__[0]).parent for package in (orchestrator, models))
        if ours != theirs:
            raise ImportError(f"a package called models in {theirs} hides ours in {ours}; load the model elsewhere")
        from orchestrator.serving.bundle import Bundle

        config = context.model_config or {}
        self.scorer = Bundle.load(context.artifacts["bundle"]).scorer(config.get("device", "cpu"))

    def predict(self, context, model_input, params=None):  # MLflow would read hints as a schema
        """Score a table of recordings; one that cannot be used is a row whose `problem` says why."""
        from orchestrator.serving.answers import Recording, answer

        sections = model_input["section"] if "section" in model_input else [None] * len(model_input)
        rows = zip(model_input["audio"], model_input["machine"], sections, strict=True)
        answers = answer(self.scorer, [Recording(data, machine, section or None) for data, machine, section in rows])
        table = pd.DataFrame([one._asdict() for one in answers], columns=[*COLUMNS])
        return table.astype(object).where(table.notna(), None)  # JSON has null, but no NaN


mlflow.models.set_model(EnsembleModel())
