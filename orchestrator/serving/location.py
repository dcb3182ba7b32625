"""Where a model is: a bundle's folder, an MLflow model, or a row of a study's results."""

from pathlib import Path

from orchestrator.loading import STUDY
from orchestrator.serving.bundle import Bundle
from orchestrator.serving.manifest import MANIFEST, BundleError
from orchestrator.storage import Store

MLFLOW = ("models:/", "runs:/", "mlflow-artifacts:/")
IN_MLFLOW = Path("artifacts", "bundle")  # where register.py puts it
ADVICE = "name a row's folder (results/demo/systems/mr-sl), models:/asd-demo-mr-sl@champion, or an exported folder"


def open_model(where: str, tracking_uri: str | None = None) -> Bundle:
    """The model at a path or an MLflow address. BundleError says what would be valid."""
    study, _, row = where.rstrip("/").rpartition("/systems/")
    if study and "/" not in row and not where.startswith(MLFLOW) and Store.at(study).exists(STUDY):
        from orchestrator.serving.from_study import bundle_of_study

        return bundle_of_study(study, row)
    if is_address(where):
        from orchestrator.serving.register import download

        return _open_folder(download(where, tracking_uri))
    return _open_folder(Path(where))


def is_address(where: str) -> bool:
    """Whether MLflow must be asked: models:/NAME@ALIAS, runs:/ID/model, s3://..."""
    return where.startswith(MLFLOW) or "://" in where


def _open_folder(folder: Path) -> Bundle:
    for place in (folder, folder / IN_MLFLOW):
        if (place / MANIFEST).is_file():
            return Bundle.load(place)
    what = "has no model in it" if folder.is_dir() else "is not there"
    raise BundleError(f"{folder} {what}; {ADVICE}")
