"""Somebody else at the broker: repeats, reorders, mutates, floods."""

import random
import threading
from collections import Counter, deque
from types import TracebackType
from typing import Self

from common.errors import TransportError, WireError
from common.transport.contract import Inbox
from common.transport.mqtt import MqttTransport
from common.types import Tier
from common.wire import codec
from common.wire.messages import HiddenStates, LogRecord, LogRecords, Receipt
from tests.chaos.processes import Fleet
from tests.fuzz.mutation import mutate

_KEPT = 500


class Stranger:
    """Listens to what tiers say to each other and says it again, worse."""

    def __init__(self, fleet: Fleet, rng: random.Random) -> None:
        self.counts: Counter[str] = Counter()
        self._topics = fleet.topics
        self._devices = fleet.devices
        self._random = rng
        self._heard: deque[tuple[str, bytes]] = deque(maxlen=_KEPT)
        self._inbox = Inbox(2000)
        self._transport = MqttTransport(fleet.settings("stranger"), client_id=f"{fleet.site}-stranger")
        for topic in (self._topics.request(Tier.EDGE), self._topics.request(Tier.CLOUD), self._topics.log):
            self._transport.subscribe(topic, self._inbox)
        self._transport.subscribe(self._topics.outcome("+"), self._inbox)
        self._thread = threading.Thread(target=self._listen, name="stranger")

    def __enter__(self) -> Self:
        self._transport.__enter__()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._transport.__exit__(None, None, None)
        self._thread.join()

    def repeat(self, count: int) -> None:
        """Send messages again, as a broker may."""
        for topic, payload in self._sample(count):
            self._say("repeated", topic, payload)

    def reorder(self, count: int) -> None:
        """Send messages again in another order, each twice."""
        sample = self._sample(count) * 2
        self._random.shuffle(sample)
        for topic, payload in sample:
            self._say("reordered", topic, payload)

    def mutate(self, count: int) -> None:
        """Send broken messages; none that would truly forge a record or a receipt, which is another matter."""
        for topic, payload in self._sample(count):
            broken = mutate(payload, self._random)
            if not self._is_forgery(broken):
                self._say("mutated", topic, broken)

    def oversize(self, count: int) -> None:
        """Send messages near and beyond every limit."""
        for _ in range(count):
            topic = self._random.choice(
                [self._topics.request(Tier.EDGE), self._topics.log, self._topics.input(self._devices[0])]
            )
            self._say("oversized", topic, self._random.randbytes(self._random.choice((600_000, 1_900_000))))

    def flood(self, count: int) -> None:
        """Be a device that floods the edge with its requests."""
        requests = [
            (topic, payload)
            for topic, payload in self._heard
            if topic.endswith("edge/request") and _is_request(payload)
        ]
        for number in range(count if requests else 0):
            topic, payload = requests[number % len(requests)]
            message = codec.decode(payload)
            altered = codec.encode(_as_flooder(message, number))
            self._say("flooded", topic, altered)

    def _sample(self, count: int) -> list[tuple[str, bytes]]:
        heard = list(self._heard)
        return self._random.choices(heard, k=count) if heard else []

    def _is_forgery(self, payload: bytes) -> bool:
        try:
            return isinstance(codec.decode(payload), LogRecord | LogRecords | Receipt)
        except WireError:
            return False

    def _say(self, kind: str, topic: str, payload: bytes) -> None:
        try:
            self._transport.publish(topic, payload, expiry_s=2)
            self.counts[kind] += 1
        except TransportError:
            self.counts["unsaid"] += 1

    def _listen(self) -> None:
        for delivery in self._inbox:
            self._heard.append((delivery.topic, delivery.payload))


def _as_flooder(message: object, number: int) -> codec.Message:
    import msgspec  # noqa: PLC0415

    return msgspec.structs.replace(message, device_id="flooder", request_id=f"flood{number}")  # type: ignore[type-var]


def _is_request(payload: bytes) -> bool:
    """Leave out what this stranger itself has broken."""
    try:
        return isinstance(codec.decode(payload), HiddenStates)
    except WireError:
        return False
