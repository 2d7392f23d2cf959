"""Requests to other tiers, each with what is left of its time, as the network shows how much of it is its own."""

import logging
import time
from collections import Counter
from collections.abc import Sequence

import msgspec

from common.routing.selection import Profile
from common.transport.contract import Publication, Transport
from common.wire import codec
from common.wire.messages import Outcome
from device_agent.pending import Pending

_LOGGER = logging.getLogger(__name__)
_TIERS_SHARE = 0.5  # of what is left, at least: with no time no tier would show that the network is quick again


class Sender:
    """Sends and sends again; ``counts`` is the settler's."""

    def __init__(self, transport: Transport, counts: Counter[str]) -> None:
        self._transport = transport
        self._counts = counts
        self._network = Profile()  # of both ways and the broker, as round trips tell

    def time_for_tiers_s(self, pending: Pending) -> float:
        """Tell what a request's budget leaves the tiers, as both ways through the network are the device's to count."""
        return max(0.0, pending.deadline - time.monotonic() - self._network.bound_ms() / 1000)

    def send(self, pendings: Sequence[Pending]) -> None:
        """Send requests together; what the transport does not take is sent again like what is lost."""
        publications = [self._addressed(pending) for pending in pendings]
        refusals = self._transport.publish_all(publications)
        for pending, publication, refusal in zip(pendings, publications, refusals, strict=True):
            if refusal is not None:
                pending.sent_bytes -= len(publication.payload)
                self._counts["unsent"] += 1
                _LOGGER.debug("%s: not sent: %s", pending.request_id, refusal)

    def arrived(self, pending: Pending, outcome: Outcome) -> None:
        """Learn how long the network takes: the round trip less what the tiers say they took of it."""
        if pending.attempts == 1:
            away = outcome.hops[len(pending.message.hops) if pending.message else 0 :]
            spent_ms = sum(hop.queue_ms + hop.compute_ms for hop in away)
            pending.model.uplink.arrived(pending.request_id, spent_ms, outcome.hops[-1].tier)
            self._network = self._network.updated(max(0.0, (time.monotonic() - pending.sent_at) * 1000 - spent_ms))

    def _addressed(self, pending: Pending) -> Publication:
        """Give a request as it leaves now, with what is left of its time."""
        if pending.message is None:
            raise AssertionError("only what is to leave is dispatched")
        pending.sent_at = time.monotonic()
        left_s = max(0.0, pending.deadline - pending.sent_at)
        for_tiers_s = max(left_s * _TIERS_SHARE, self.time_for_tiers_s(pending))
        message = msgspec.structs.replace(pending.message, budget_ms=for_tiers_s * 1000, attempt=pending.attempts)
        payload = codec.encode(message)
        pending.sent_bytes += len(payload)
        pending.model.uplink.left(pending.request_id, len(payload))
        return Publication(pending.topic, payload, qos=0, expiry_s=max(1.0, left_s))  # at QoS 0: it is sent again
