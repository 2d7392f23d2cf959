"""Spans to an OpenTelemetry collector, by OTLP over HTTP; the only place that knows its library."""

import contextlib
import logging
import queue
import random
import threading
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from types import TracebackType
from typing import Self

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags

from common.service.telemetry.spans import hop_spans
from common.service.telemetry.tracing import NOWHERE, Kind, Place, Refusals, Span
from common.types import Hop, Tier
from common.wire.trace_context import TraceContext

_LOGGER = logging.getLogger(__name__)
_PATH = "/v1/traces"  # of OTLP over HTTP
MAX_WAITING = 4096  # spans; beyond, new ones are dropped
_MAX_BATCH = 512
_TIMEOUT_S = 5.0  # for one batch, repeats included
_STOP_LIMIT_S = 2.0
_KINDS: Mapping[Kind, SpanKind] = {
    "internal": SpanKind.INTERNAL,
    "server": SpanKind.SERVER,
    "client": SpanKind.CLIENT,
    "producer": SpanKind.PRODUCER,
    "consumer": SpanKind.CONSUMER,
}


class OtlpTracer:
    """Exports on a thread of its own; what the collector does not take is counted and forgotten."""

    def __init__(self, endpoint: str, tier: Tier, node: str, *, sample_rate: float) -> None:
        """Prepare.

        Args:
            endpoint: The collector's base URL.
            tier: This node's; a device begins traces, the others only join them.
            node: This node's name.
            sample_rate: What share of the requests without a trace begins one, 0..1.
        """
        self._endpoint = endpoint.rstrip("/") + _PATH
        self._is_entrance = tier is Tier.DEVICE
        self._sample_rate = sample_rate
        self._refused = Refusals()
        self._counts = self._refused.counters
        self._counts.update(exported=0, dropped=0, failed=0)
        self._waiting: queue.Queue[Span | None] = queue.Queue(MAX_WAITING)
        self._resource = Resource(
            {"service.name": f"dimee-{tier}", "service.instance.id": node, "service.version": version("dimee")}
        )
        self._is_reached = True
        logging.getLogger(OTLPSpanExporter.__module__).setLevel(logging.CRITICAL)  # it warns of every attempt
        self._exporter = OTLPSpanExporter(endpoint=self._endpoint, timeout=_TIMEOUT_S)
        self._thread = threading.Thread(target=self._run, name="trace-export")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Export what was told, within the limit."""
        with contextlib.suppress(queue.Full):
            self._waiting.put(None, timeout=_STOP_LIMIT_S)
            self._thread.join(_STOP_LIMIT_S)
        self._exporter.shutdown()  # type: ignore[no-untyped-call]  # further batches fail at once, so there is a place
        if self._thread.is_alive():
            self._waiting.put(None)
        self._thread.join()

    def join(self, traceparent: str | bytes) -> Place:
        """Take a place in the trace that a request came with, or in one that begins here."""
        received = self._refused.parsed(traceparent) if traceparent else None
        if received is None:
            return self._begin() if traceparent or self._is_entrance else NOWHERE
        if not received.is_sampled:
            return Place(parent=received, onward=received)
        own = received.child()
        return Place(parent=received, own=own, onward=own.child())

    def tell(self, spans: Sequence[Span]) -> None:
        """Queue spans for the next batch; drop what has no place."""
        for span in spans:
            try:
                self._waiting.put_nowait(span)
            except queue.Full:
                self._counts["dropped"] += 1

    def hop(self, place: Place, hop: Hop, *, received_at: float, reason: str, revision: str) -> None:
        """Tell of a tier's part that has just ended."""
        self.tell(hop_spans(place, hop, received_at=received_at, reason=reason, revision=revision))

    def counters(self) -> Mapping[str, int]:
        """Count spans by what became of them, and what was no ``traceparent``."""
        return self._counts

    def _begin(self) -> Place:
        if random.random() >= self._sample_rate:  # noqa: S311 - a share, no secret
            return NOWHERE
        own = TraceContext.fresh()
        return Place(own=own, onward=own.child())

    def _run(self) -> None:
        for batch in self._batches():
            is_taken = self._exporter.export([self._readable(span) for span in batch]) is SpanExportResult.SUCCESS
            self._counts["exported" if is_taken else "failed"] += len(batch)
            if is_taken is not self._is_reached:
                self._is_reached = is_taken
                self._say()

    def _batches(self) -> Iterator[list[Span]]:
        """Give what waits, until the sentinel."""
        while (span := self._waiting.get()) is not None:
            batch = [span]
            while len(batch) < _MAX_BATCH and not self._waiting.empty():
                following = self._waiting.get()
                if following is None:
                    yield batch
                    return
                batch.append(following)
            yield batch

    def _say(self) -> None:
        if self._is_reached:
            _LOGGER.info("%s takes spans again", self._endpoint)
        else:
            _LOGGER.warning("%s takes no spans; they are counted and dropped until it does", self._endpoint)

    def _readable(self, span: Span) -> ReadableSpan:
        started_ns = int(span.started_at * 1e9)
        return ReadableSpan(
            span.name,
            context=_context(span.context, is_remote=False),
            parent=None if span.parent is None else _context(span.parent, is_remote=span.kind in _RECEIVING),
            resource=self._resource,
            attributes=span.attributes,
            kind=_KINDS[span.kind],
            start_time=started_ns,
            end_time=started_ns + int(span.duration_ms * 1e6),
            instrumentation_scope=_SCOPE,
        )


_RECEIVING: frozenset[Kind] = frozenset({"server", "consumer"})  # their parents are other nodes' spans
_SCOPE = InstrumentationScope("dimee")


def _context(context: TraceContext, *, is_remote: bool) -> SpanContext:
    flags = TraceFlags(TraceFlags.SAMPLED if context.is_sampled else TraceFlags.DEFAULT)
    return SpanContext(int(context.trace_id, 16), int(context.span_id, 16), is_remote, flags)
