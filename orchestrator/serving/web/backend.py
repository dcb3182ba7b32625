"""What stands behind the door: something that scores one clip at a time, however many are asked for at once."""

from typing import Protocol

from orchestrator.serving.web.clips import Clip, Result
from orchestrator.serving.web.schema import Model


class Unavailable(Exception):  # noqa: N818
    """No scorer answers at the moment: one has died and its successor is not ready."""


class Backend(Protocol):
    """Scorers of one model."""

    model: Model

    async def score(self, clip: Clip) -> Result:
        """The clip's row. Cancelling the call takes the clip out of the queue. Raises Unavailable."""

    async def alive(self) -> bool:
        """Whether a scorer answers."""
