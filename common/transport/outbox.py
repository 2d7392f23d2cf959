"""Messages on their way out: waiting for the network, or sent and not yet acknowledged. Both are bounded."""

import logging
import time
from collections import Counter, deque
from typing import Self

import msgspec

from common.errors import TransportError
from common.transport.routes import check_name

_LOGGER = logging.getLogger(__name__)
_MAX_LOSSES = 5  # connections that may die under a message before it is taken for the cause
_SUSPECT_AFTER = 2  # losses after which a message goes alone, so that it takes no other down with it
_OVERHEAD_BYTES = 32  # fixed header, topic length, packet id and our properties, rounded up


class Outgoing(msgspec.Struct, frozen=True, kw_only=True):
    """A message to publish."""

    topic: str
    payload: bytes
    qos: int = 1
    is_retained: bool = False
    expires_at: float | None = None  # time.monotonic()
    is_resent: bool = True  # worth sending again after a reconnect
    losses: int = 0  # connections that died while it was in flight
    taken_at: float = msgspec.field(default_factory=time.monotonic)

    @classmethod
    def made(
        cls, topic: str, payload: bytes, *, qos: int = 1, is_retained: bool = False, expiry_s: float | None = None
    ) -> Self:
        """Make one from what ``publish`` takes.

        Raises:
            ValueError: The topic is empty or holds a wildcard.
        """
        check_name(topic)
        expires_at = None if expiry_s is None else time.monotonic() + expiry_s
        return cls(topic=topic, payload=payload, qos=qos, is_retained=is_retained, expires_at=expires_at)

    @property
    def packet_bytes(self) -> int:
        """An upper bound of its size on the wire."""
        return len(self.topic.encode()) + len(self.payload) + _OVERHEAD_BYTES

    @property
    def remaining_s(self) -> float | None:
        """Seconds until it is worthless; None when it stays worth sending."""
        return None if self.expires_at is None else self.expires_at - time.monotonic()


class Outbox:
    """Messages in the order they were given; the caller holds the transport's lock."""

    def __init__(self, max_messages: int, max_packet_bytes: int) -> None:
        self.max_messages = max_messages
        self.max_packet_bytes = max_packet_bytes
        self.is_closed = False
        self.counts: Counter[str] = Counter()
        self._waiting: deque[Outgoing] = deque()
        self._in_flight: dict[int, Outgoing] = {}  # by packet id, oldest first

    def __len__(self) -> int:
        """How many messages wait or are in flight."""
        return len(self._waiting) + len(self._in_flight)

    @property
    def num_in_flight(self) -> int:
        """How many messages were sent and not acknowledged."""
        return len(self._in_flight)

    @property
    def oldest_s(self) -> float:
        """How long the oldest message has been here; 0 when there is none."""
        oldest = next(iter(self._in_flight.values()), None) or (self._waiting[0] if self._waiting else None)
        return 0.0 if oldest is None else time.monotonic() - oldest.taken_at

    def check_size(self, message: Outgoing) -> None:
        """Refuse a message that the broker would answer by closing the connection.

        Raises:
            TransportError: It is larger than the limit in force.
        """
        if message.packet_bytes > self.max_packet_bytes:
            self.counts["refused_too_large"] += 1
            raise TransportError(
                f"message of {len(message.payload)} bytes for {message.topic!r} exceeds the packet limit of "
                f"{self.max_packet_bytes} bytes (the smaller of mqtt.max_packet_bytes and the broker's maximum)"
            )

    def append(self, message: Outgoing) -> None:
        """Take a message.

        Raises:
            TransportError: It is too large, or the outbox is full or closed.
        """
        if self.is_closed:
            raise TransportError(f"transport is closed; {message.topic!r} was not taken")
        self.check_size(message)
        if len(self) >= self.max_messages:
            self.counts["refused_outbox_full"] += 1
            raise TransportError(
                f"outbox holds {len(self)} unacknowledged messages (mqtt.max_outbox); {message.topic!r} was not taken"
            )
        self._waiting.append(message)

    def put_first(self, message: Outgoing) -> None:
        """Take a message that goes before all others and counts against no bound."""
        self._waiting.appendleft(message)

    def may_send(self, window: int) -> bool:
        """Whether a message waits and may go now: within the window, and a suspect only alone."""
        if not self._waiting or len(self._in_flight) >= window:
            return False
        oldest = next(iter(self._in_flight.values()), None)
        return oldest is None or max(oldest.losses, self._waiting[0].losses) < _SUSPECT_AFTER

    def take(self) -> Outgoing | None:
        """Give the next message that is still worth sending and fits, or None."""
        while self._waiting:
            message = self._waiting.popleft()
            remaining_s = message.remaining_s
            if remaining_s is not None and remaining_s <= 0:
                self.counts["dropped_expired"] += 1
            elif message.packet_bytes > self.max_packet_bytes:
                self._drop("dropped_too_large", message, f"the broker now takes {self.max_packet_bytes} bytes at most")
            else:
                return message
        return None

    def sent(self, packet_id: int, message: Outgoing) -> None:
        """Remember a message until it is acknowledged."""
        self.counts["sent"] += 1
        self._in_flight[packet_id] = message

    def acknowledged(self, packet_id: int) -> Outgoing | None:
        """Forget a message that the broker has."""
        return self._in_flight.pop(packet_id, None)

    def recall(self) -> None:
        """Put what was in flight back to the front: the connection is lost, and the session with it."""
        for message in reversed(self._in_flight.values()):
            if message.losses + 1 >= _MAX_LOSSES:
                self._drop("dropped_suspect", message, f"{_MAX_LOSSES} connections died while it was in flight")
            elif message.is_resent:
                self._waiting.appendleft(msgspec.structs.replace(message, losses=message.losses + 1))
        self._in_flight.clear()

    def _drop(self, reason: str, message: Outgoing, why: str) -> None:
        self.counts[reason] += 1
        _LOGGER.warning("dropped a message of %d bytes for %s: %s", len(message.payload), message.topic, why)
