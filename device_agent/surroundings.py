"""What a device knows of the tiers around it, from their retained statuses."""

from collections.abc import Callable

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
        self._served: dict[tuple[Tier, str], tuple[str, ...]] = {}
        self.on_change: Callable[[], None] = lambda: None

    def put(self, delivery: Delivery) -> bool:
        """Note a status; runs on the transport's thread."""
        try:
            status = decode_status(delivery.payload)
        except WireError:
            return False
        key = (status.tier, status.node)
        if status.state != "online":
            self._saturated.pop(key, None)
            self._served.pop(key, None)
        elif key in self._saturated or len(self._saturated) < _MAX_NODES:
            self._saturated[key] = bool(status.counters.get("inference_saturated"))
            self._served[key] = status.served
        self.on_change()
        return True

    def lagging(self, revision: str) -> list[str]:
        """Name the edges and cloud workers that are online and do not serve a revision."""
        return [
            f"{tier} {node}"
            for (tier, node), served in sorted(self._served.copy().items())
            if tier is not Tier.DEVICE and revision not in served
        ]

    def is_saturated(self, tier: Tier) -> bool:
        """Whether every node of a tier that is online says so; False while none is known."""
        said = [is_saturated for (of, _), is_saturated in self._saturated.copy().items() if of is tier]
        return bool(said) and all(said)
