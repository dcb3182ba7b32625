"""Where a finished study's model goes: into a folder of its own, or into MLflow's registry."""

from orchestrator.data.folders import is_folder
from orchestrator.ledger import TRACKING, local_home, tracking_uri
from orchestrator.loading import load_study, read_study, study_store
from orchestrator.serving.from_study import bundle_of_study
from orchestrator.serving.register import Home, Registered, register
from orchestrator.storage import Store


def find_study(study: str, overrides: list[str]) -> str:
    """The results folder of a study that is named by it, or by its file and overrides."""
    return study if is_folder(study) else study_store(load_study(study, overrides)).uri


def export_to_mlflow(folder: str, system: str, uri: str | None) -> Registered:
    """Register one system of the study in `folder`; without `uri` in the study's own store."""
    bundle = bundle_of_study(folder, system)
    store = Store.at(folder)
    study = read_study(store)
    identity = str(store.read_json(TRACKING)["identity"]) if store.exists(TRACKING) else ""
    home = Home(uri or tracking_uri(study), study.name, local_home(study) / "mlartifacts", identity)
    return register(bundle, home)
