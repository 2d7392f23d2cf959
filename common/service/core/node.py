"""A node around its trusted core: what comes sealed is handed in, what comes out sealed is sent."""

import logging
import time
from collections import Counter

import msgspec

from common.errors import TransportError, WireError
from common.service.core.calls import Stored
from common.service.core.client import Core
from common.transport.contract import Delivery, Inbox, Publication, Transport
from common.transport.forwarding import ForwardingTransport
from common.types import Tier
from common.wire.codec import Peek
from common.wire.topics import Topics

_LOGGER = logging.getLogger(__name__)


class CoreChannel:
    """The sealed channel of a node whose keys are in its core."""

    def __init__(self, core: Core, topics: Topics) -> None:
        self.tier_key = core.ready.tier_key
        self._core = core
        self._topics = topics

    def over(self, transport: Transport) -> Transport:
        """Hear the keys of further tiers for the core, and let it seal what the log says."""
        transport.subscribe(self._topics.status(Tier.CLOUD, "+"), self._core.heard)
        return _CoreTransport(transport, self._core)

    def inbox(self, max_deliveries: int) -> Inbox:
        """Store what comes as it is taken out."""
        return _CoreInbox(max_deliveries, self._core)

    def counters(self) -> dict[str, int]:
        """Count what was sealed and opened, and what was refused, by reason."""
        return self._core.counters


class CoreWorker:
    """Handles stored requests: asks the core to compute, and sends what comes out."""

    def __init__(self, core: Core, transport: Transport) -> None:
        self.counters: Counter[str] = Counter()
        self._core = core
        self._transport = transport

    def handle(self, deliveries: list[Delivery]) -> None:
        """Have them answered, escalated or refused."""
        stored = [msgspec.json.decode(delivery.payload, type=Stored) for delivery in deliveries]
        computed = self._core.compute(tuple(each.handle for each in stored))
        # at QoS 0: the device asks again, and it is remembered
        replies = [Publication(*self._core.result(handle), qos=0) for handle in computed.handles]
        for reply, refusal in zip(replies, self._transport.publish_all(replies), strict=True):
            if refusal is not None:
                self.counters["unsent"] += 1
                _LOGGER.warning("%d sealed bytes could not be sent to %s: %s", len(reply.payload), reply.topic, refusal)


def peek_stored(payload: bytes) -> Peek:
    """Say whose stored request this is, as the core told."""
    stored = msgspec.json.decode(payload, type=Stored)
    return Peek(stored.device_id, stored.budget_ms, stored.is_retry)


class _CoreInbox(Inbox):
    """Stores deliveries in the core, in the consumer's thread; what does not hold is never seen."""

    def __init__(self, max_deliveries: int, core: Core) -> None:
        super().__init__(max_deliveries)
        self._core = core

    def get(self, timeout: float | None = None) -> Delivery | None:
        """Take the oldest delivery that holds (see ``Inbox``)."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            delivery = super().get(left)
            if delivery is None:
                return None
            stored = self._core.store(delivery.topic, delivery.payload, delivery.received_at)
            if stored.device_id:
                return Delivery(delivery.topic, msgspec.json.encode(stored), delivery.received_at)
            if stored.handle:  # a record for the log
                _, payload = self._core.result(stored.handle)
                return Delivery(delivery.topic, payload, delivery.received_at)


class _CoreTransport(ForwardingTransport):
    """A transport on which the log's words to devices are sealed by the core."""

    def __init__(self, inner: Transport, core: Core) -> None:
        super().__init__(inner)
        self._core = core

    def counters(self) -> dict[str, int]:
        """Count what happened, below and in the core."""
        return {**self._inner.counters(), **self._core.counters}

    def _outward(self, topic: str, payload: bytes) -> bytes:
        """Let the core seal it.

        Raises:
            TransportError: The core does not seal this.
        """
        try:
            stored = self._core.store(topic, payload, time.monotonic())
            return self._core.result(stored.handle)[1]
        except WireError as exc:
            raise TransportError(str(exc)) from exc
