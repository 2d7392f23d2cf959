"""What waits for a worker, and in which order it is taken; used by one thread."""

import logging
import math
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from common.transport.contract import Delivery
from common.wire.codec import Peek, peek

_LOGGER = logging.getLogger(__name__)
_SATURATED_SHARE = 0.5  # of the bound
_CALM_S = 1.0  # without haste, and the tier is at ease again


class Backlog(Protocol):
    """Deliveries between an inbox and a handler."""

    counters: Counter[str]
    max_waiting: int
    on_saturation: Callable[[], None]  # called when saturation begins and when it ends
    expected_ms: float  # how long what is taken will be worked on

    def __len__(self) -> int:
        """How many wait."""

    def add(self, deliveries: Sequence[Delivery]) -> None:
        """Take deliveries in, and shed what is too many."""

    def take(self, most: int) -> list[Delivery]:
        """Give the next ones, at most ``most``."""


class InOrder:
    """First come, first served; the inbox's bound is the only one."""

    max_waiting = 256

    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()
        self.on_saturation = _tell_nobody
        self.expected_ms = 0.0
        self._waiting: deque[Delivery] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, deliveries: Sequence[Delivery]) -> None:
        """Take deliveries in."""
        self._waiting.extend(deliveries)

    def take(self, most: int) -> list[Delivery]:
        """Give the oldest."""
        return [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]


def _tell_nobody() -> None:
    """Keep it to oneself."""


def _answer_nobody(_: Peek) -> None:
    """Let the device find out by itself."""


class _Waiting(msgspec.Struct, frozen=True):
    delivery: Delivery
    peek: Peek

    def is_late(self, then: float) -> bool:
        """Whether its budget will have run out at ``then`` (monotonic seconds)."""
        return bool(self.peek.device_id) and (then - self.delivery.received_at) * 1000 >= self.peek.budget_ms


class FairByDevice:
    """Serves devices in turn, so that one that floods waits behind itself alone.

    When full it sheds the least valuable of the longest lane: what is late already, else a retry, else the newest.
    """

    def __init__(self, max_waiting: int, look: Callable[[bytes], Peek] = peek) -> None:
        """Hold at most ``max_waiting``; ``look`` tells whose a payload is."""
        self.counters: Counter[str] = Counter()
        self.max_waiting = max_waiting
        self._look = look
        self.is_saturated = False
        self.on_saturation = _tell_nobody
        self.on_excess: Callable[[Peek], None] = _answer_nobody  # called with what is shed and might have been in time
        self.expected_ms = 0.0
        self._lanes: OrderedDict[str, deque[_Waiting]] = OrderedDict()  # by device, the one whose turn it is first
        self._count = 0
        self._hurried_at = -math.inf  # when a device was last served newest first, or too much waited

    def __len__(self) -> int:
        return self._count

    def add(self, deliveries: Sequence[Delivery]) -> None:
        """Take deliveries in, and shed one for each that is one too many."""
        for delivery in deliveries:
            one = _Waiting(delivery, self._look(delivery.payload))
            lane = self._lanes.get(one.peek.device_id)
            if lane is None:
                lane = self._lanes[one.peek.device_id] = deque()
            lane.append(one)
            self._count += 1
            if self._count > self.max_waiting:
                self._shed()
        self._feel(time.monotonic())

    def take(self, most: int) -> list[Delivery]:
        """Give the next of each device in turn; what would come too late is dropped on the way.

        Oldest first, until a device's oldest has waited for half of its budget: from then on newest first, for in order
        all would be answered a moment too late (adaptive LIFO; Maurer, "Fail at Scale", ACM Queue 13(8), 2015).
        """
        taken: list[Delivery] = []
        now = time.monotonic()
        while self._count and len(taken) < most:
            device, lane = next(iter(self._lanes.items()))
            self._drop_late(lane, now + self.expected_ms / 1000)
            if lane:
                taken.append(self._choose(lane, now).delivery)
                self._count -= 1
            self._lanes.move_to_end(device)
            if not lane:
                del self._lanes[device]
        self._feel(now)
        return taken

    def _drop_late(self, lane: deque[_Waiting], done_at: float) -> None:
        while lane and lane[0].is_late(done_at):
            lane.popleft()
            self._count -= 1
            self.counters["shed_late"] += 1

    def _choose(self, lane: deque[_Waiting], now: float) -> _Waiting:
        oldest = lane[0]
        waited_ms = (now - oldest.delivery.received_at) * 1000
        if not oldest.peek.device_id or waited_ms < oldest.peek.budget_ms / 2:
            return lane.popleft()
        self._hurried_at = now
        return lane.pop()

    def _shed(self) -> None:
        device, lane = max(self._lanes.items(), key=lambda item: len(item[1]))
        now = time.monotonic()
        late = next((place for place, one in enumerate(lane) if one.is_late(now)), None)
        retry = next((place for place in reversed(range(len(lane))) if lane[place].peek.is_retry), None)
        place, reason = (
            (late, "late") if late is not None else (retry, "retry") if retry is not None else (-1, "excess")
        )
        shed = lane[place].peek
        del lane[place]
        if not lane:
            del self._lanes[device]
        self._count -= 1
        if reason == "excess" and shed.device_id:  # of a retry the first attempt may be at work; what is late has ended
            self.on_excess(shed)
        self.counters[f"shed_{reason}"] += 1
        count = self.counters[f"shed_{reason}"]
        if count.bit_count() == 1:  # the 1st, 2nd, 4th, 8th, ...: a flood must not flood the log
            _LOGGER.warning("%d requests wait; shed one of %s: %s (%d so far)", self.max_waiting, device, reason, count)

    def _feel(self, now: float) -> None:
        is_crowded = self._count >= self.max_waiting * _SATURATED_SHARE
        is_saturated = is_crowded or now - self._hurried_at < _CALM_S
        if is_crowded:
            self._hurried_at = now
        if is_saturated != self.is_saturated:
            self.is_saturated = is_saturated
            self.counters["saturated"] = int(is_saturated)
            self.on_saturation()
