"""Operating points as they come: each goes to the models of its revision, or is refused and counted."""

import logging
import threading
from collections.abc import Callable
from weakref import WeakSet

from common.engine.steering import Steered
from common.errors import ModelMismatchError, WireError
from common.model.bundle import Bundle
from common.routing.operating_point import OperatingPoint, decode_point
from common.transport.contract import Delivery, Inbox

_LOGGER = logging.getLogger(__name__)


class OperatingPoints(Inbox):
    """An inbox that acts at once instead of queueing: the last point published is the one in effect."""

    def __init__(self) -> None:
        super().__init__(1)
        self._models: WeakSet[Steered] = WeakSet()
        self._last: OperatingPoint | None = None
        self._changes = threading.Lock()  # points come on the transport's thread, models on others
        self.refused = 0
        self.on_point: Callable[[], None] = _tell_nobody  # called on the transport's thread

    def model_of(self, revision: str) -> Steered | None:
        """Give a model of this revision that follows the points, if there is one."""
        with self._changes:
            return next((model for model in self._models if model.revision == revision), None)

    def steer(self, bundle: Bundle, name: str) -> Steered:
        """Give a bundle's policy by name, to follow the points from now on.

        Raises:
            ConfigError: The bundle has no policy of this name.
        """
        model = Steered(bundle, name)
        with self._changes:
            self._models.add(model)
            if self._last is not None and self._last.revision == model.revision:
                self._offer(self._last, [model])
        return model

    def put(self, delivery: Delivery) -> bool:
        """Take a point; a cleared topic gives every model its own policy back."""
        is_taken = self._take(delivery.payload)
        self.on_point()
        return is_taken

    def _take(self, payload: bytes) -> bool:
        try:
            point = decode_point(payload) if payload else None
        except WireError as exc:
            return self._refuse(exc)
        with self._changes:
            self._last = point
            return self._offer(point, list(self._models))

    def _offer(self, point: OperatingPoint | None, models: list[Steered]) -> bool:
        revisions = {model.revision for model in models}
        try:
            if point is not None and point.revision not in revisions:
                told = ", ".join(sorted(revisions))
                raise ModelMismatchError(f"operating point for revision {point.revision}; this node runs {told}")
            for model in models:
                if point is None or point.revision == model.revision:
                    model.take(point)
        except WireError as exc:
            return self._refuse(exc)
        return True

    def _refuse(self, reason: WireError) -> bool:
        self.refused += 1
        _LOGGER.warning("%s", reason)
        return False


def _tell_nobody() -> None:
    """Tell nobody."""
