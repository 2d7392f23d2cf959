"""What waits for a worker, and in which order it is taken; used by one thread."""

import logging
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from common.transport.contract import Delivery
from common.wire.codec import Peek, peek

_LOGGER = logging.getLogger(__name__)
_SATURATED_SHARE = 0.5  # of the bound; below half of this the tier is at ease again


class Backlog(Protocol):
    """Deliveries between an inbox and a handler."""

    counters: Counter[str]
    max_waiting: int
    on_saturation: Callable[[], None]  # called when saturation begins and when it ends

    def __len__(self) -> int:
        """How many wait."""

    def add(self, delivery: Delivery) -> None:
        """Take a delivery in, or shed one."""

    def take(self, most: int) -> list[Delivery]:
        """Give the next ones, at most ``most``."""


class InOrder:
    """First come, first served; the inbox's bound is the only one."""

    max_waiting = 256

    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()
        self.on_saturation = _tell_nobody
        self._waiting: deque[Delivery] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, delivery: Delivery) -> None:
        """Take a delivery in."""
        self._waiting.append(delivery)

    def take(self, most: int) -> list[Delivery]:
        """Give the oldest."""
        return [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]


def _tell_nobody() -> None:
    """Keep it to oneself."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    delivery: Delivery
    peek: Peek

    def is_late(self, now: float) -> bool:
        return bool(self.peek.device_id) and (now - self.delivery.received_at) * 1000 >= self.peek.budget_ms


class FairByDevice:
    """Serves devices in turn, so that one that floods waits behind itself alone.

    When full it sheds the least valuable of the longest lane: what is late already, else a retry, else the newest.
    """

    def __init__(self, max_waiting: int) -> None:
        self.counters: Counter[str] = Counter()
        self.max_waiting = max_waiting
        self.is_saturated = False
        self.on_saturation = _tell_nobody
        self._lanes: OrderedDict[str, deque[_Waiting]] = OrderedDict()  # by device, the one whose turn it is first
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, delivery: Delivery) -> None:
        """Take a delivery in, and shed one if that is one too many."""
        one = _Waiting(delivery, peek(delivery.payload))
        self._lanes.setdefault(one.peek.device_id, deque()).append(one)
        self._count += 1
        if self._count > self.max_waiting:
            self._shed()
        self._feel()

    def take(self, most: int) -> list[Delivery]:
        """Give the next of each device in turn; what has become late is dropped on the way."""
        taken: list[Delivery] = []
        now = time.monotonic()
        while self._count and len(taken) < most:
            device, lane = next(iter(self._lanes.items()))
            one = lane.popleft()
            self._count -= 1
            self._lanes.move_to_end(device)
            if not lane:
                del self._lanes[device]
            if one.is_late(now):
                self.counters["shed_late"] += 1
            else:
                taken.append(one.delivery)
        self._feel()
        return taken

    def _shed(self) -> None:
        device, lane = max(self._lanes.items(), key=lambda item: len(item[1]))
        now = time.monotonic()
        late = next((place for place, one in enumerate(lane) if one.is_late(now)), None)
        retry = next((place for place in reversed(range(len(lane))) if lane[place].peek.is_retry), None)
        place, reason = (
            (late, "late") if late is not None else (retry, "retry") if retry is not None else (-1, "excess")
        )
        del lane[place]
        if not lane:
            del self._lanes[device]
        self._count -= 1
        self.counters[f"shed_{reason}"] += 1
        count = self.counters[f"shed_{reason}"]
        if count.bit_count() == 1:  # the 1st, 2nd, 4th, 8th, ...: a flood must not flood the log
            _LOGGER.warning("%d requests wait; shed one of %s: %s (%d so far)", self.max_waiting, device, reason, count)

    def _feel(self) -> None:
        limit = self.max_waiting * _SATURATED_SHARE * (0.5 if self.is_saturated else 1.0)
        if (self._count >= limit) != self.is_saturated:
            self.is_saturated = not self.is_saturated
            self.counters["saturated"] = int(self.is_saturated)
            self.on_saturation()
