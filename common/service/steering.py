"""Operating points as they come: each goes to the models that a node runs, or is refused and counted."""

import logging
from collections.abc import Callable, Iterable

from common.engine.steering import Steered
from common.errors import ModelMismatchError, WireError
from common.routing.operating_point import decode_point
from common.transport.contract import Delivery, Inbox

_LOGGER = logging.getLogger(__name__)


class OperatingPoints(Inbox):
    """An inbox that acts at once instead of queueing: the last point published is the one in effect."""

    def __init__(self, models: Callable[[], Iterable[Steered]]) -> None:
        """Steer the models that run when a point comes."""
        super().__init__(1)
        self._models = models
        self.refused = 0

    def put(self, delivery: Delivery) -> bool:
        """Take a point; runs on the transport's thread. A cleared topic gives every model its own policy back."""
        models = list(self._models())
        try:
            point = decode_point(delivery.payload) if delivery.payload else None
            if point is not None and point.revision not in {model.revision for model in models}:
                told = ", ".join(model.revision for model in models)
                raise ModelMismatchError(f"operating point for revision {point.revision}; this node runs {told}")
            for model in models:
                if point is None or point.revision == model.revision:
                    model.take(point)
        except WireError as exc:
            self.refused += 1
            _LOGGER.warning("%s", exc)
            return False
        return True
