"""What a sender learns of its way up from its own requests: how long a byte takes, and how many are on their way.

Requests go at QoS 0, so there is no acknowledgement but the outcome: it says when so many bytes had arrived. While
outcomes are missing, the age of the oldest request says that the way cannot be faster than that. What delays an
outcome without being the way's fault delays a small message as much as a large one, so messages count by their bytes.
"""

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from common.types import Tier

_REMEMBERED_S, _STRETCH_S = 600.0, 60.0  # the quickest way of the last minutes tells the delay of an empty message
_KEPT = 0.7  # weight of all earlier messages beside a new one
_RECENT = 8  # messages; the quickest of them tells what the way may bear
_SLOWEST_MS = 1.0  # of a byte: 8 kbit/s
_USUAL_SHARE = 0.1  # weight of a new sample of what tiers take and how often requests leave
_LONGEST_GAP_MS = 5000.0  # after which a sender counts as idle


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """What the next message would meet."""

    byte_ms: float  # what a byte takes; 0 while nothing is known
    empty_ms: float  # what an empty message and its outcome take
    waiting_bytes: int  # on their way
    gap_ms: float  # from one message to the next

    def expected_ms(self, num_bytes: int) -> float:
        """Tell how long a message would take to arrive and its outcome to come back, waiting included."""
        return self.empty_ms + (self.waiting_bytes + num_bytes) * self.byte_ms

    def load(self, num_bytes: int) -> float:
        """Tell the share of the way's capacity that messages of such a size would take at the present rate."""
        return num_bytes * self.byte_ms / max(self.gap_ms, 1e-3)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sent:
    at: float  # seconds on the clock
    number: int
    ahead_bytes: int  # on their way when it left, its own included
    num_bytes: int


class Way(Protocol):
    """Is told of every message on its way; any thread may call."""

    def left(self, request_id: str, num_bytes: int) -> None:
        """Note a message handed to the network."""

    def arrived(self, request_id: str, tiers_ms: float, tier: Tier) -> None:
        """Note an outcome, how long the tiers say they took for it, and whose it is."""

    def given_up(self, request_id: str) -> None:
        """Note that no outcome came in time."""


class Unmeasured:
    """A way that nobody adapts to."""

    def left(self, request_id: str, num_bytes: int) -> None:
        """Learn nothing."""

    def arrived(self, request_id: str, tiers_ms: float, tier: Tier) -> None:
        """Learn nothing."""

    def given_up(self, request_id: str) -> None:
        """Learn nothing."""


class Uplink:
    """Measures one way up; safe to use from many threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._flying: OrderedDict[str, _Sent] = OrderedDict()
        self._flying_bytes = 0
        self._sent = 0
        self._quickest: dict[Tier, deque[tuple[float, float]]] = {}  # milliseconds, by the stretch's beginning
        self._took_ms = self._took_bytes = 0.0  # of earlier messages, the latest counting most
        self._recent: deque[tuple[int, float]] = deque(maxlen=_RECENT)  # number and milliseconds of a byte
        self._tiers_ms = 0.0
        self._gap_ms = _LONGEST_GAP_MS
        self._left_at: float | None = None

    @property
    def sent(self) -> int:
        """Messages handed to the network so far."""
        return self._sent

    def left(self, request_id: str, num_bytes: int) -> None:
        """Note a message handed to the network."""
        with self._lock:
            now = self._clock()
            if self._left_at is not None:
                gap_ms = min(_LONGEST_GAP_MS, (now - self._left_at) * 1000)
                self._gap_ms += _USUAL_SHARE * (gap_ms - self._gap_ms)
            self._left_at = now
            self._forget(request_id)
            self._sent += 1
            self._flying_bytes += num_bytes
            self._flying[request_id] = _Sent(
                at=now, number=self._sent, ahead_bytes=self._flying_bytes, num_bytes=num_bytes
            )

    def arrived(self, request_id: str, tiers_ms: float, tier: Tier) -> None:
        """Note an outcome, how long the tiers say they took for it, and whose it is: some are farther away."""
        with self._lock:
            sent = self._forget(request_id)
            if sent is None:
                return
            way_ms = max(0.0, (self._clock() - sent.at) * 1000 - tiers_ms)
            self._tiers_ms += _USUAL_SHARE * (tiers_ms - self._tiers_ms)
            self._note(tier, way_ms, sent.ahead_bytes)
            byte_ms = self._learn(sent.ahead_bytes, way_ms - _quickest_ms(self._quickest[tier]))
            self._recent.append((sent.number, byte_ms))

    def given_up(self, request_id: str) -> None:
        """Note that no outcome came in time: a bound from below."""
        with self._lock:
            sent = self._forget(request_id)
            if sent is None or not self._quickest:
                return
            waited_ms = self._waited_ms(sent)
            if waited_ms > self._byte_ms() * sent.ahead_bytes:
                self._learn(sent.ahead_bytes, waited_ms)

    def usual(self) -> Pace:
        """Tell what the next message would meet by what the last ones took."""
        with self._lock:
            return self._pace(self._byte_ms())

    def best(self, after: int) -> Pace:
        """Tell what it would meet by the quickest of the last messages, of those sent after the first so many."""
        with self._lock:
            recent = [byte_ms for number, byte_ms in self._recent if number > after]
            return self._pace(min(recent, default=self._byte_ms()))

    def trust(self, pace: Pace) -> None:
        """Take a pace for the usual one, until messages say otherwise."""
        with self._lock:
            self._took_ms = pace.byte_ms * self._took_bytes

    def _pace(self, byte_ms: float) -> Pace:
        oldest = next(iter(self._flying.values()), None)
        if oldest is not None and self._quickest:
            byte_ms = max(byte_ms, min(_SLOWEST_MS, self._waited_ms(oldest) / oldest.ahead_bytes))
        return Pace(byte_ms=byte_ms, empty_ms=self._empty_ms(), waiting_bytes=self._flying_bytes, gap_ms=self._gap_ms)

    def _forget(self, request_id: str) -> _Sent | None:
        sent = self._flying.pop(request_id, None)
        if sent is not None:
            self._flying_bytes -= sent.num_bytes
        return sent

    def _waited_ms(self, sent: _Sent) -> float:
        """Tell for how long a message has been due, had the farthest tier answered it."""
        farthest_ms = max(map(_quickest_ms, self._quickest.values()))
        return (self._clock() - sent.at) * 1000 - 2 * self._tiers_ms - farthest_ms

    def _note(self, tier: Tier, way_ms: float, ahead_bytes: int) -> None:
        """Keep the quickest way of every stretch of time; a link that stays slow would else pass for a long one."""
        now = self._clock()
        if tier not in self._quickest:  # what is known of the rate is no delay of the tier's
            way_ms = max(self._empty_ms(), way_ms - ahead_bytes * self._byte_ms())
        stretches = self._quickest.setdefault(tier, deque())
        if not stretches or now - stretches[-1][0] > _STRETCH_S:
            stretches.append((now, way_ms))
        elif way_ms < stretches[-1][1]:
            stretches[-1] = (stretches[-1][0], way_ms)
        while now - stretches[0][0] > _REMEMBERED_S:
            stretches.popleft()

    def _empty_ms(self) -> float:
        return min(map(_quickest_ms, self._quickest.values()), default=0.0)

    def _learn(self, ahead_bytes: int, took_ms: float) -> float:
        """Count what so many bytes took beyond an empty message; gives what one of them took."""
        took_ms = min(max(0.0, took_ms), _SLOWEST_MS * ahead_bytes)
        self._took_ms = _KEPT * self._took_ms + took_ms
        self._took_bytes = _KEPT * self._took_bytes + ahead_bytes
        return took_ms / ahead_bytes

    def _byte_ms(self) -> float:
        return self._took_ms / self._took_bytes if self._took_bytes else 0.0


def _quickest_ms(stretches: deque[tuple[float, float]]) -> float:
    return min(way_ms for _, way_ms in stretches)
