"""Ray Train on a Ray that this run started for itself, without what only a cluster needs.

Imports no torch: Ray Train's controller imports this module before it starts the slots.
"""

from typing import Any

from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

NOT_LOCAL = ("PlacementGroupCleanerCallback", "DatasetsCallback")  # of Ray Train's own


class HaveAll(FixedScalingPolicy):
    """Asks no autoscaler for nodes: there is none, and the process that takes such wishes needs 2 s to start."""

    def after_controller_start(self, train_run_context: Any) -> None:
        pass

    def _maybe_send_resource_request(self) -> None:
        pass


class LocalTrainer(DataParallelTrainer):
    """Without three actors: one shares out data sets (there are none), one asks for nodes, one cleans up.

    The last frees a dead driver's reservation. A local Ray ends with its driver; and that actor asks the dashboard,
    which is not there, for 12 s.
    """

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        return [one for one in callbacks if type(one).__name__ not in NOT_LOCAL]

    def _initialize_and_run_controller(self, **parts: Any) -> Any:
        scaling: Any = self.scaling_config
        policy = HaveAll(scaling)
        return super()._initialize_and_run_controller(**parts | {"scaling_policy": policy})
