"""Where a node stands in a request's trace, and what it tells of its part; without OpenTelemetry."""

import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Literal, NamedTuple, Protocol, Self
from urllib.parse import urlsplit

from common.config.settings import DeviceTracing, Tracing
from common.errors import ConfigError
from common.types import Hop, Tier
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


def open_tracer(settings: Tracing, tier: Tier, node: str) -> Tracer:
    """Choose what a node's settings ask for; enter it.

    Raises:
        ConfigError: The endpoint is no URL, or the extra for it is not installed.
    """
    if settings.endpoint is None:
        return NoTracer()
    if urlsplit(settings.endpoint).scheme not in {"http", "https"} or not urlsplit(settings.endpoint).hostname:
        raise ConfigError(f"tracing.endpoint {settings.endpoint!r} is no http URL, e.g. http://collector:4318")
    try:
        from common.service.telemetry.otlp import OtlpTracer  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as exc:
        raise ConfigError(
            f"tracing.endpoint is set and {exc.name!r} is not installed; pip install 'dimee[tracing]'"
        ) from exc
    sample_rate = settings.sample_rate if isinstance(settings, DeviceTracing) else 1.0
    return OtlpTracer(settings.endpoint, tier, node, sample_rate=sample_rate)


def hop_spans(place: Place, hop: Hop, *, received_at: float, reason: str, revision: str) -> Sequence[Span]:
    """Tell of a tier's part that has just ended, in its queue, in computing and, where it goes on, in sending.

    Args:
        place: The tier's.
        hop: Its part.
        received_at: When the request came in, in monotonic seconds.
        reason: Of its answer, or ``ESCALATED``.
        revision: Of the model.
    """
    if place.own is None:
        return ()
    tier: dict[str, str | int] = {"dimee.tier": str(hop.tier)}
    lasted_ms = (time.monotonic() - received_at) * 1000
    began_at = time.time() - lasted_ms / 1000
    computing_at = began_at + hop.queue_ms / 1000
    ended_ms = hop.queue_ms + hop.compute_ms
    outcome: dict[str, str | int] = {"dimee.exit_layer": hop.end, "dimee.reason": reason, "dimee.revision": revision}
    spans = [
        Span("hop", place.own, place.parent, "consumer", began_at, lasted_ms, tier | outcome),
        Span("queue", place.own.child(), place.own, "internal", began_at, hop.queue_ms, tier),
        Span("compute", place.own.child(), place.own, "internal", computing_at, hop.compute_ms, tier),
    ]
    if reason == ESCALATED and place.onward is not None:
        sending_ms, sending_at = max(0.0, lasted_ms - ended_ms), began_at + ended_ms / 1000
        spans.append(Span("network", place.onward, place.own, "producer", sending_at, sending_ms, tier))
    return spans
