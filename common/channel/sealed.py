"""The sealed channel: what leaves for another tier is encrypted to it; what comes in plain is refused and counted."""

import logging
import time
from collections import Counter
from collections.abc import Callable

from common.channel.incoming import RECORDS, Receiver, label_of
from common.channel.outgoing import Sender
from common.channel.sessions import SealError
from common.errors import TransportError, WireError
from common.transport.contract import Delivery, Inbox, Transport
from common.transport.forwarding import ForwardingTransport
from common.types import Tier
from common.wire.codec import headings
from common.wire.topics import Topics

_LOGGER = logging.getLogger(__name__)
_Seal = Callable[[str, bytes], bytes]
_Open = Callable[[str, bytes], bytes]


class SealedDevice:
    """A device's end: requests and records out, outcomes and receipts in."""

    tier_key = ""

    def __init__(
        self, topics: Topics, sender: Sender, counts: Counter[str], *, plain: frozenset[str] = frozenset()
    ) -> None:
        """Seal to tiers; ``plain`` are topics that go to applications as they are."""
        self._plain = plain
        self._sender = sender
        self._topics = topics
        self._counts = counts
        self._tiers = {topics.request(Tier.EDGE): Tier.EDGE, topics.request(Tier.CLOUD): Tier.CLOUD}
        self._tiers[topics.log] = Tier.EDGE

    def over(self, transport: Transport) -> Transport:
        """Seal all that the device publishes."""
        self._sender.listen(transport, self._topics)
        return SealedTransport(transport, self._topics, self._seal, self._counts, plain=self._plain)

    def inbox(self, max_deliveries: int) -> Inbox:
        """Open what comes as it is taken out."""
        return SealedInbox(max_deliveries, self._open, self._counts)

    def counters(self) -> dict[str, int]:
        """Count what was sealed and opened, and what was refused, by reason."""
        return dict(self._counts)

    def _seal(self, topic: str, payload: bytes) -> bytes:
        tier = self._tiers.get(topic)
        if tier is None:
            raise TransportError(f"{topic!r} would be plain; a sealed device publishes only to tiers")
        return self._sender.seal(tier, topic, payload)

    def _open(self, topic: str, payload: bytes) -> bytes:
        label, body = self._sender.open(topic, payload)
        if label not in {RECORDS, label_of(headings(body)[0])}:
            raise SealError("substituted", f"reply labelled {label!r} answers another request")
        return body


class SealedTier:
    """An edge's or a cloud worker's end."""

    def __init__(
        self, topics: Topics, receiver: Receiver, sender: Sender | None, *, tier_key: str, counts: Counter[str]
    ) -> None:
        """Answer what ``receiver`` opens; ``sender`` carries on to the cloud, where there is one."""
        self.tier_key = tier_key
        self._topics = topics
        self._receiver = receiver
        self._sender = sender
        self._counts = counts

    def over(self, transport: Transport) -> Transport:
        """Seal all that the tier publishes."""
        if self._sender is not None:
            self._sender.listen(transport, self._topics)
        return SealedTransport(transport, self._topics, self._seal, self._counts)

    def inbox(self, max_deliveries: int) -> Inbox:
        """Open what comes as it is taken out."""
        return SealedInbox(max_deliveries, self._receiver.open, self._counts)

    def counters(self) -> dict[str, int]:
        """Count what was sealed and opened, and what was refused, by reason."""
        return dict(self._counts)

    def _seal(self, topic: str, payload: bytes) -> bytes:
        message, *_ = headings(payload)
        if message.tag == "H":
            if self._sender is None or topic != self._topics.request(Tier.CLOUD):
                raise TransportError(f"{topic!r} takes no hidden states from this tier")
            grant = self._receiver.grant(message.device_id, message.request_id)
            return self._sender.seal(Tier.CLOUD, topic, payload, grant)
        label, device_id = label_of(message), topic.split("/")[-2]
        if topic != self._topics.outcome(device_id):
            raise TransportError(f"{topic!r} is no device's outcome topic")
        return self._receiver.seal(device_id, topic, label, payload)


class SealedTransport(ForwardingTransport):
    """A transport that seals what it publishes; statuses go by the transport's own presence, in plain."""

    def __init__(
        self,
        inner: Transport,
        topics: Topics,
        seal: _Seal,
        counts: Counter[str],
        *,
        plain: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__(inner)
        self._plain = plain
        self._statuses = topics.status("", "").rstrip("/")
        self._seal = seal
        self._counts = counts

    def subscribe(self, topic: str, inbox: Inbox, *, group: str | None = None) -> None:
        """Bring sealed messages and statuses in; whatever else would come in plain is left out."""
        is_open = topic in self._plain or topic.startswith(f"{self._statuses}/")
        if not is_open and not isinstance(inbox, SealedInbox):
            _LOGGER.warning("%s is not subscribed: what comes there would be plain, and the channel is sealed", topic)
            return
        super().subscribe(topic, inbox, group=group)

    def counters(self) -> dict[str, int]:
        """Count what happened, below and here."""
        return {**self._inner.counters(), **self._counts}

    def _outward(self, topic: str, payload: bytes) -> bytes:
        """Seal a message.

        Raises:
            TransportError: There is no key to seal with yet, or the topic is none between tiers.
        """
        sealed = payload if topic in self._plain else self._seal(topic, payload)
        self._counts["plain" if topic in self._plain else "sealed"] += 1
        return sealed


class SealedInbox(Inbox):
    """Opens deliveries in the consumer's thread; what does not hold is dropped, counted and never seen."""

    def __init__(self, max_deliveries: int, open_: _Open, counts: Counter[str]) -> None:
        super().__init__(max_deliveries)
        self._open = open_
        self._counts = counts

    def get(self, timeout: float | None = None) -> Delivery | None:
        """Take the oldest delivery that holds (see ``Inbox``)."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            delivery = super().get(left)
            if delivery is None:
                return None
            try:
                plain = self._open(delivery.topic, delivery.payload)
            except WireError as exc:
                self._refuse(delivery, exc)
            else:
                self._counts["opened"] += 1
                return Delivery(delivery.topic, plain, delivery.received_at)

    def _refuse(self, delivery: Delivery, exc: WireError) -> None:
        reason = exc.reason if isinstance(exc, SealError) else "malformed"
        self._counts[f"refused_{reason}"] += 1
        if self._counts[f"refused_{reason}"].bit_count() == 1:  # the 1st, 2nd, 4th, ...
            _LOGGER.warning("refused %d bytes on %s: %s", len(delivery.payload), delivery.topic, exc)
