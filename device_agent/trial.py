"""Whether a new bundle behaves as its record says: where its answers exit, and how many are fallbacks."""

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Literal

from common.config.settings import DeviceUpdates
from common.evaluation.exits import drift
from common.service.telemetry.vitals import Meter
from common.types import Answer, Hop, Reason

State = Literal["watching", "proven", "failed"]


class Trial:
    """Counts the answers of one revision until a window is full; safe to use from any thread."""

    def __init__(
        self, revision: str, expected: Mapping[int, float], limits: DeviceUpdates, *, on_end: Callable[[], None]
    ) -> None:
        self.revision = revision
        self.state: State = "watching"
        self.reason = ""  # why it failed
        self._expected = expected
        self._limits = limits
        self._on_end = on_end
        self._lock = threading.Lock()
        self._exits: Counter[int] = Counter()
        self._fallbacks = 0

    @property
    def watched(self) -> int:
        """Answers so far."""
        return sum(self._exits.values()) + self._fallbacks

    def note(self, answer: Answer, *, is_connected: bool) -> None:
        """Count an answer; without a broker every model falls back, so those tell nothing."""
        is_fallback = answer.reason in (Reason.DEGRADED, Reason.FAILED)
        if answer.model_revision != self.revision or (is_fallback and not is_connected):
            return
        with self._lock:
            if self.state != "watching":
                return
            self._fallbacks += is_fallback
            if not is_fallback:
                self._exits[answer.exit_layer] += 1
            self.state = self._judge()
            has_ended = self.state != "watching"
        if has_ended:
            self._on_end()

    def _judge(self) -> State:
        limits, watched = self._limits, self.watched
        if self._fallbacks > limits.max_degraded * limits.window:  # no later answer can mend it
            self.reason = f"{self._fallbacks} of {watched} answers were degraded or failed"
            return "failed"
        if watched < limits.window:
            return "watching"
        drifted = drift(self._expected, self._exits)
        if drifted > limits.max_exit_drift:
            self.reason = f"its exits drifted by {drifted:.2f} from its record, {limits.max_exit_drift:.2f} are allowed"
            return "failed"
        return "proven"


class ShowingMeter:
    """A meter that shows every answer to somebody else, too."""

    def __init__(self, inner: Meter) -> None:
        self._inner = inner
        self.show: Callable[[Answer], None] = _show_nobody

    def hop(self, hop: Hop, *, has_answered: bool) -> None:
        """Note a tier's part in a request."""
        self._inner.hop(hop, has_answered=has_answered)

    def answer(self, answer: Answer) -> None:
        """Note a request that is settled."""
        self._inner.answer(answer)
        self.show(answer)


def _show_nobody(_answer: Answer) -> None:
    """Show nobody."""
