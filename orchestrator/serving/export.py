"""Where a finished study's model goes: into a folder of its own, or into MLflow's registry."""

from pathlib import Path

from orchestrator.ledger import TRACKING, tracking_uri
from orchestrator.loading import load_study
from orchestrator.plan import study_folder
from orchestrator.serving.from_study import bundle_of_study
from orchestrator.serving.register import Home, Registered, register
from orchestrator.storage import Store


def find_study(study: Path, overrides: list[str]) -> Path:
    """The results folder of a study that is named by it, or by its file and overrides."""
    return study if study.is_dir() else study_folder(load_study(study, overrides))


def export_to_mlflow(folder: Path, system: str, uri: str | None) -> Registered:
    """Register one system of the study in `folder`; without `uri` in the study's own store."""
    bundle = bundle_of_study(folder, system)
    study, store = load_study(folder / "study.yaml"), Store.at(folder)
    identity = str(store.read_json(TRACKING)["identity"]) if store.exists(TRACKING) else ""
    home = Home(uri or tracking_uri(study), study.name, folder.absolute().parent / "mlartifacts", identity)
    return register(bundle, home)
