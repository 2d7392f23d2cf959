"""Where a node stands in a request's trace, and what it tells of its part; without OpenTelemetry."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Literal, NamedTuple, Protocol, Self

from common.types import Hop
from common.wire.trace_context import TraceContext, parse_traceparent, unpack_traceparent

_LOGGER = logging.getLogger(__name__)
Kind = Literal["internal", "server", "client", "producer", "consumer"]
ESCALATED = "escalated"  # beside the reasons of answers: the hop had none


class Place(NamedTuple):
    """Where a node stands in a request's trace."""

    parent: TraceContext | None = None  # that the request came with
    own: TraceContext | None = None  # of the node's whole part; None where it has nothing to tell
    onward: TraceContext | None = None  # that goes with the request to the next tier

    @property
    def traceparent(self) -> bytes:
        """What the next tier gets; empty outside any trace."""
        return b"" if self.onward is None else self.onward.packed()

    @property
    def trace_id(self) -> str:
        """Name the trace; empty outside any."""
        return "" if self.onward is None else self.onward.trace_id


NOWHERE = Place()


class Span(NamedTuple):
    """A finished piece of work; attributes are from small sets, never a text."""

    name: str
    context: TraceContext
    parent: TraceContext | None
    kind: Kind
    started_at: float  # seconds since the epoch, by this node's wall clock
    duration_ms: float
    attributes: Mapping[str, str | int]


class Tracer(Protocol):
    """Places requests in traces and takes what is to be told; returns at once, from any thread."""

    def __enter__(self) -> Self:
        """Begin to export."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Export what was told, within a limit."""

    def join(self, traceparent: str | bytes) -> Place:
        """Take a place in the trace that a request came with; an invalid ``traceparent`` counts as none."""

    def tell(self, spans: Sequence[Span]) -> None:
        """Hand over finished spans."""

    def hop(self, place: Place, hop: Hop, *, received_at: float, reason: str, revision: str) -> None:
        """Tell of a tier's part that has just ended (see ``spans.hop_spans``)."""

    def counters(self) -> Mapping[str, int]:
        """Count what happened."""


class NoTracer:
    """Tells nothing, and passes a valid ``traceparent`` on as it came."""

    def __init__(self) -> None:
        self._refused = Refusals()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave nothing behind."""

    def join(self, traceparent: str | bytes) -> Place:
        """Stand aside."""
        if not traceparent:
            return NOWHERE
        received = self._refused.parsed(traceparent)
        return NOWHERE if received is None else Place(parent=received, onward=received)

    def tell(self, spans: Sequence[Span]) -> None:
        """Let them pass."""

    def hop(self, place: Place, hop: Hop, *, received_at: float, reason: str, revision: str) -> None:
        """Let it pass."""

    def counters(self) -> Mapping[str, int]:
        """Count invalid ones."""
        return self._refused.counters


class Refusals:
    """Reads ``traceparent`` from outside, and counts what is none."""

    def __init__(self) -> None:
        self.counters: Counter[str] = Counter(invalid=0)

    def parsed(self, traceparent: str | bytes) -> TraceContext | None:
        """Read an application's text or another tier's bytes; None where they are invalid."""
        match traceparent:
            case str():
                context = parse_traceparent(traceparent)
            case bytes():
                context = unpack_traceparent(traceparent)
        if context is None:
            self.counters["invalid"] += 1
            count = self.counters["invalid"]
            if count.bit_count() == 1:  # the 1st, 2nd, 4th, 8th, ...: a flood must not flood the log
                _LOGGER.warning("traceparent %r is none, and ignored (%d so far)", traceparent[:80], count)
        return context
