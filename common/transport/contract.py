"""What every transport promises: messages go out without blocking, and come in through bounded inboxes."""

import logging
import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import msgspec

from common.errors import TransportError

_LOGGER = logging.getLogger(__name__)
_Message = TypeVar("_Message")


class Delivery(msgspec.Struct, frozen=True):
    """A message that came in."""

    topic: str
    payload: bytes
    received_at: float  # time.monotonic() of this process


class Publication(msgspec.Struct, frozen=True):
    """A message that is to leave with others; the fields are those of ``Transport.publish``."""

    topic: str
    payload: bytes
    qos: int = 1
    expiry_s: float | None = None


_LOOK_UP = Delivery(topic="", payload=b"", received_at=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """What a node says of itself on its retained status topic.

    Over MQTT a token is retained on ``{topic}/claim`` too, by which two processes with one client id find out.
    The callables run on the transport's thread while it holds its lock: they return at once and wait for nobody.
    """

    topic: str
    online: Callable[[], bytes]  # asked at each connection, once all subscriptions are acknowledged
    stopped: Callable[[], bytes]  # asked at a clean stop
    gone: bytes  # the last will


class Inbox:
    """A bounded queue between a transport and one consumer; a full or closed inbox drops and counts."""

    def __init__(self, max_deliveries: int) -> None:
        self._max_deliveries = max_deliveries
        self._queue: queue.SimpleQueue[Delivery | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._is_closed = False
        self._is_drained = False
        self.dropped: Counter[str] = Counter()  # by reason: inbox_full, inbox_closed

    def __len__(self) -> int:
        """How many deliveries wait."""
        return max(0, self._queue.qsize() - self._is_closed)

    def __iter__(self) -> Iterator[Delivery]:
        """Give deliveries until the inbox is closed and drained."""
        while (delivery := self.get()) is not None:
            yield delivery

    @property
    def is_drained(self) -> bool:
        """Whether the inbox is closed and its consumer has taken everything."""
        return self._is_drained

    def put(self, delivery: Delivery) -> bool:
        """Take a delivery in, or drop and count it; never blocks."""
        with self._lock:
            if not self._is_closed and self._queue.qsize() < self._max_deliveries:
                self._queue.put(delivery)
                return True
            reason = "inbox_closed" if self._is_closed else "inbox_full"
            self.dropped[reason] += 1
            count = self.dropped[reason]
        if count.bit_count() == 1:  # the 1st, 2nd, 4th, 8th, ...: a flood must not flood the log
            _LOGGER.warning(
                "dropped %d bytes from %s: %s (%d so far)", len(delivery.payload), delivery.topic, reason, count
            )
        return False

    def get(self, timeout: float | None = None) -> Delivery | None:
        """Take the oldest delivery; None when nothing came within ``timeout`` seconds, when woken, or when drained."""
        try:
            delivery = self._queue.get(timeout=timeout) if timeout != 0 else self._queue.get_nowait()
        except queue.Empty:
            return None
        if delivery is None:
            self._is_drained = True
            self._queue.put(None)  # for another consumer that waits, and for the next call
        return None if delivery is _LOOK_UP else delivery

    def get_batch(self, most: int, timeout: float | None = None) -> list[Delivery] | None:
        """Wait for a delivery and take what waits with it; empty after ``timeout`` seconds, None when drained."""
        batch: list[Delivery] = []
        delivery = self.get(timeout)
        while delivery is not None:
            batch.append(delivery)
            delivery = self.get(0) if len(batch) < most else None
        return None if self._is_drained and not batch else batch

    def wake(self) -> None:
        """Let the consumer look up from its waiting, as if nothing had come in time."""
        self._queue.put(_LOOK_UP)

    def close(self) -> None:
        """Refuse what comes from now on; what was accepted can still be taken."""
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                self._queue.put(None)


def refusals(take: Callable[[_Message], None], messages: Iterable[_Message]) -> list[TransportError | None]:
    """Take every message, and give the reason for each that was refused; None for the others."""
    reasons: list[TransportError | None] = []
    for message in messages:
        try:
            take(message)
        except TransportError as exc:
            reasons.append(exc)
        else:
            reasons.append(None)
    return reasons


class Transport(Protocol):
    """A connection to the one broker of this process, made and restored in the background."""

    @property
    def is_connected(self) -> bool:
        """Whether the broker acknowledged all subscriptions of the present connection."""

    def subscribe(self, topic: str, inbox: Inbox, *, group: str | None = None) -> None:
        """Bring what is published on ``topic`` (``+`` and ``#`` allowed) into ``inbox``, now and after reconnects.

        Subscriptions made before the transport is entered are in force before presence says online. Delivery is at
        least once; where a transport's own filters overlap, a message may come once for each.

        Args:
            topic: Topic filter.
            inbox: Where deliveries go.
            group: Members of a group share the messages, where the broker can; else each gets all.

        Raises:
            ValueError: It is no topic filter.
        """

    def unsubscribe(self, topic: str) -> None:
        """Bring nothing more of a filter that was subscribed without a group; what is on its way may still come."""

    def publish(
        self, topic: str, payload: bytes, *, qos: int = 1, is_retained: bool = False, expiry_s: float | None = None
    ) -> None:
        """Send a message, or keep it in the bounded outbox until the network takes it; never waits for the network.

        Args:
            topic: Topic without wildcards.
            payload: The message.
            qos: 0 at most once, 1 at least once.
            is_retained: Keep it at the broker for later subscribers.
            expiry_s: Seconds after which it is not worth sending or delivering.

        Raises:
            TransportError: It is larger than the broker or the settings allow, the outbox is full, or the transport
                is closed.
            ValueError: The topic is empty or holds a wildcard.
        """

    def publish_all(self, publications: Sequence[Publication]) -> list[TransportError | None]:
        """Send messages as ``publish`` would, in this order, together where that is possible; see ``refusals``.

        Raises:
            ValueError: A topic is empty or holds a wildcard; those before it may have been taken.
        """
        return refusals(lambda p: self.publish(p.topic, p.payload, qos=p.qos, expiry_s=p.expiry_s), publications)

    def wait_connected(self, timeout: float) -> bool:
        """Wait until connected; False when that took longer than ``timeout`` seconds.

        Raises:
            ConfigError: The transport gave up, e.g. because the login was refused.
        """

    def counters(self) -> dict[str, int]:
        """Count what happened: sent, received, reconnects, and what was dropped or refused, by reason."""
