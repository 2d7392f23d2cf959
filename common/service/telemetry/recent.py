"""The latest requests of a node, for figures that follow what happens now."""

import statistics
import threading
from collections import deque
from typing import NamedTuple

from common.service.telemetry.vitals import Meter
from common.types import Answer, Hop, Tier

_WINDOW = 256  # requests


class _Passed(NamedTuple):
    has_answered: bool  # here
    latency_ms: float


class RecentMeter:
    """A meter that remembers the latest requests beside what another one makes of them."""

    def __init__(self, tier: Tier, inner: Meter) -> None:
        self._tier = tier
        self._inner = inner
        self._passed: deque[_Passed] = deque(maxlen=_WINDOW)
        self._lock = threading.Lock()

    def hop(self, hop: Hop, *, has_answered: bool) -> None:
        """Note this tier's part in a request, and whether it answered it."""
        self._inner.hop(hop, has_answered=has_answered)
        self._note(_Passed(has_answered, hop.queue_ms + hop.compute_ms))

    def answer(self, answer: Answer) -> None:
        """Note a request that is settled."""
        self._inner.answer(answer)
        self._note(_Passed(answer.exit_tier is self._tier, answer.total_ms))

    def exit_share(self) -> float | None:
        """Give the share that was answered here; None where nothing passed."""
        with self._lock:
            return statistics.fmean(each.has_answered for each in self._passed) if self._passed else None

    def latency_ms(self) -> float | None:
        """Give the median; None where nothing passed."""
        with self._lock:
            return statistics.median(each.latency_ms for each in self._passed) if self._passed else None

    def _note(self, passed: _Passed) -> None:
        with self._lock:
            self._passed.append(passed)
