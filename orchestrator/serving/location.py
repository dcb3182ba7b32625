"""Where a model is: a bundle's folder, an MLflow model, or a row of a study's results."""

from pathlib import Path

from orchestrator.serving.bundle import Bundle
from orchestrator.serving.manifest import MANIFEST, BundleError

IN_MLFLOW = Path("artifacts", "bundle")  # where register.py puts it
ADVICE = "name a row's folder (results/demo/systems/mr-sl), models:/asd-demo-mr-sl@champion, or an exported folder"


def open_model(where: str, tracking_uri: str | None = None) -> Bundle:
    """The model at a path or an MLflow address. BundleError says what would be valid."""
    if is_address(where):
        from orchestrator.serving.register import download

        return _open_folder(download(where, tracking_uri))
    return _open_folder(Path(where))


def is_address(where: str) -> bool:
    """Whether MLflow must be asked: models:/NAME@ALIAS, runs:/ID/model, s3://..."""
    return where.startswith(("models:/", "runs:/", "mlflow-artifacts:/")) or "://" in where


def _open_folder(folder: Path) -> Bundle:
    for place in (folder, folder / IN_MLFLOW):
        if (place / MANIFEST).is_file():
            return Bundle.load(place)
    study = folder.absolute().parent.parent
    if folder.absolute().parent.name == "systems" and (study / "study.yaml").is_file():
        from orchestrator.serving.from_study import bundle_of_study

        return bundle_of_study(study, folder.absolute().name)
    what = "has no model in it" if folder.is_dir() else "is not there"
    raise BundleError(f"{folder} {what}; {ADVICE}")
