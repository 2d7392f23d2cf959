"""A process's own view of itself: what happened, what there is now, and whether it is well."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from common.types import Answer, Hop, Tier

Counters = Callable[[], Mapping[str, int]]
Gauges = Callable[[], Mapping[str, float]]
BUSY_LIMIT_S = 60.0  # a thread that is busy with one batch for longer is taken for hung


@dataclass(slots=True, kw_only=True)
class Vitals:
    """Where to look when somebody asks; every callable returns at once, from any thread.

    The names of parts, counters and gauges stand in the code, never in a message: they become labels.
    """

    tier: Tier
    node: str
    model_revision: str
    exit_layers: frozenset[int]
    counters: dict[str, Counters] = field(default_factory=dict)  # by part of the process
    gauges: dict[str, Gauges] = field(default_factory=dict)
    busy_s: dict[str, Callable[[], float]] = field(default_factory=dict)  # by thread
    is_connected: Callable[[], bool] = bool

    @property
    def hung(self) -> list[str]:
        """Name the threads that have been busy for too long."""
        return [name for name, busy_s in self.busy_s.items() if busy_s() > BUSY_LIMIT_S]


class Meter(Protocol):
    """Takes the measure of what passes; returns at once, from any thread."""

    def hop(self, hop: Hop, *, has_answered: bool) -> None:
        """Note this tier's part in a request, and whether it answered it."""

    def answer(self, answer: Answer) -> None:
        """Note a request that is settled."""


class NoMeter:
    """Measures nothing."""

    def hop(self, hop: Hop, *, has_answered: bool) -> None:
        """Let it pass."""

    def answer(self, answer: Answer) -> None:
        """Let it pass."""
