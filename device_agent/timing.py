"""When a request that waits for another tier is looked at again: for its shadow, its next attempt, its end."""

import random
import time

from common.config.settings import DeviceLimits
from device_agent.pending import Pending


class Timing:
    """The limits of a device as moments; stateless."""

    def __init__(self, limits: DeviceLimits) -> None:
        self._limits = limits

    def schedule_retry(self, pending: Pending) -> None:
        """Wait twice as long after every attempt, with jitter so that a fleet does not retry in step."""
        jitter = random.uniform(0.8, 1.2)  # noqa: S311 - no secret
        wait_ms = self._limits.retry_ms * float(2 ** min(pending.attempts - 1, 16)) * jitter
        pending.retry_at = time.monotonic() + wait_ms / 1000

    def needs_shadow(self, pending: Pending, now: float) -> bool:
        """Tell whether the device's own exit is to be asked now."""
        return not _has_local(pending) and now >= self._shadow_at(pending)

    def next_look(self, pending: Pending) -> float:
        """Give the next moment at which something may be due, in monotonic seconds."""
        at = min(pending.retry_at, pending.deadline)
        return at if _has_local(pending) else min(at, self._shadow_at(pending))

    def patience_s(self, timer: float | None) -> float:
        """Give the time to the next timer, or the shortest wait, as the journal has records to send again."""
        limits = self._limits
        shortest_s = min(limits.retry_ms * 0.8, limits.budget_ms, max(limits.shadow_ms, 1.0)) / 1000
        return shortest_s if timer is None else max(0.0, min(shortest_s, timer - time.monotonic()))

    def _shadow_at(self, pending: Pending) -> float:
        return min(pending.accepted_at + self._limits.shadow_ms / 1000, pending.deadline)


def _has_local(pending: Pending) -> bool:
    return pending.local is not None or pending.is_shadowed
