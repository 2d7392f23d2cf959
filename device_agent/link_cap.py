"""The retained word of an operator on how much of each token may leave."""

import logging
from collections.abc import Callable

import msgspec

from common.transport.contract import Delivery, Inbox
from common.wire.documents import LinkCap

_LOGGER = logging.getLogger(__name__)


class LinkCaps(Inbox):
    """An inbox that tells caps instead of queueing them; an empty message lifts the cap, as 0 does."""

    def __init__(self, tell: Callable[[int], None]) -> None:
        super().__init__(1)
        self._tell = tell

    def put(self, delivery: Delivery) -> bool:
        """Take a cap over; runs on the transport's thread."""
        try:
            cap = msgspec.json.decode(delivery.payload, type=LinkCap) if delivery.payload else LinkCap()
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            _LOGGER.warning("refused %d bytes on %s: %s", len(delivery.payload), delivery.topic, exc)
            return False
        self._tell(cap.budget)
        return True
