"""What a sender learns of its way up from its own requests: how long a byte takes, and how many are on their way.

Requests go at QoS 0, so there is no acknowledgement but the outcome: it says when so many bytes had arrived. While
outcomes are missing, the age of the oldest request says that the way cannot be faster than that.
"""

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass

_REMEMBERED_S, _STRETCH_S = 600.0, 60.0  # the quickest way of the last minutes tells the delay of an empty message
_SLOWER, _FASTER = 0.6, 0.2  # weight of a new sample, by where it points
_SLOWEST_MS = 1.0  # of a byte: 8 kbit/s
_USUAL_SHARE = 0.1  # weight of a new sample of what tiers take and how often requests leave
_LONGEST_GAP_MS = 5000.0  # after which a sender counts as idle


@dataclass(frozen=True, slots=True)
class _Sent:
    at: float  # seconds on the clock
    ahead_bytes: int  # on their way when it left, its own included
    num_bytes: int


class Uplink:
    """Measures one way up; safe to use from many threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._flying: OrderedDict[str, _Sent] = OrderedDict()
        self._flying_bytes = 0
        self._quickest: deque[tuple[float, float]] = deque()  # milliseconds, by the stretch's beginning
        self._byte_ms = 0.0
        self._tiers_ms = 0.0
        self._gap_ms = _LONGEST_GAP_MS
        self._left_at: float | None = None

    def left(self, request_id: str, num_bytes: int) -> None:
        """Note a message handed to the network."""
        with self._lock:
            now = self._clock()
            if self._left_at is not None:
                gap_ms = min(_LONGEST_GAP_MS, (now - self._left_at) * 1000)
                self._gap_ms += _USUAL_SHARE * (gap_ms - self._gap_ms)
            self._left_at = now
            self._forget(request_id)
            self._flying_bytes += num_bytes
            self._flying[request_id] = _Sent(now, self._flying_bytes, num_bytes)

    def arrived(self, request_id: str, tiers_ms: float) -> None:
        """Note an outcome, and how long the tiers say they took for it."""
        with self._lock:
            sent = self._forget(request_id)
            if sent is None:
                return
            way_ms = max(0.0, (self._clock() - sent.at) * 1000 - tiers_ms)
            self._tiers_ms += _USUAL_SHARE * (tiers_ms - self._tiers_ms)
            self._note(way_ms)
            self._learn((way_ms - self._empty_ms()) / sent.ahead_bytes)

    def given_up(self, request_id: str) -> None:
        """Note that no outcome came in time."""
        with self._lock:
            self._learn_from_age()
            self._forget(request_id)

    def byte_ms(self) -> float:
        """Tell what a byte takes now, in milliseconds; 0 while nothing is known."""
        with self._lock:
            self._learn_from_age()
            return self._byte_ms

    def expected_ms(self, num_bytes: int) -> float:
        """Tell how long a message would take to arrive and its outcome to come back, waiting included."""
        byte_ms = self.byte_ms()
        with self._lock:
            return self._empty_ms() + (self._flying_bytes + num_bytes) * byte_ms

    def load(self, num_bytes: int) -> float:
        """Tell the share of the way's capacity that messages of such a size would take at the present pace."""
        return num_bytes * self.byte_ms() / max(self._gap_ms, 1e-3)

    def _forget(self, request_id: str) -> _Sent | None:
        sent = self._flying.pop(request_id, None)
        if sent is not None:
            self._flying_bytes -= sent.num_bytes
        return sent

    def _note(self, way_ms: float) -> None:
        """Keep the quickest way of every stretch of time; a link that stays slow would else pass for a long one."""
        now = self._clock()
        if not self._quickest or now - self._quickest[-1][0] > _STRETCH_S:
            self._quickest.append((now, way_ms))
        elif way_ms < self._quickest[-1][1]:
            self._quickest[-1] = (self._quickest[-1][0], way_ms)
        while now - self._quickest[0][0] > _REMEMBERED_S:
            self._quickest.popleft()

    def _empty_ms(self) -> float:
        return min((way_ms for _, way_ms in self._quickest), default=0.0)

    def _learn(self, byte_ms: float) -> None:
        sample = min(max(0.0, byte_ms), _SLOWEST_MS)
        self._byte_ms += (_SLOWER if sample > self._byte_ms else _FASTER) * (sample - self._byte_ms)

    def _learn_from_age(self) -> None:
        """Take the oldest request that is still out as a bound from below."""
        oldest = next(iter(self._flying.values()), None)
        if oldest is None or not self._quickest:
            return
        waited_ms = (self._clock() - oldest.at) * 1000 - self._tiers_ms * 2 - self._empty_ms()
        self._byte_ms = min(_SLOWEST_MS, max(self._byte_ms, waited_ms / oldest.ahead_bytes))
