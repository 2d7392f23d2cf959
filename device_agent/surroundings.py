"""What a device knows of the tiers around it, from their retained statuses."""

from common.errors import WireError
from common.transport.contract import Delivery, Inbox
from common.types import Tier
from common.wire.documents import decode_status

_MAX_NODES = 256


class Surroundings(Inbox):
    """An inbox that keeps the last status of each node instead of queueing."""

    def __init__(self) -> None:
        super().__init__(1)
        self._saturated: dict[tuple[Tier, str], bool] = {}

    def put(self, delivery: Delivery) -> bool:
        """Note a status; runs on the transport's thread."""
        try:
            status = decode_status(delivery.payload)
        except WireError:
            return False
        key = (status.tier, status.node)
        if status.state != "online":
            self._saturated.pop(key, None)
        elif key in self._saturated or len(self._saturated) < _MAX_NODES:
            self._saturated[key] = bool(status.counters.get("saturated"))
        return True

    def is_saturated(self, tier: Tier) -> bool:
        """Whether every node of a tier that is online says so; False while none is known."""
        said = [is_saturated for (of, _), is_saturated in self._saturated.copy().items() if of is tier]
        return bool(said) and all(said)
