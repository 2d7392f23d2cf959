"""A tier's part in a request as spans."""

import time
from collections.abc import Sequence

from common.service.telemetry.tracing import ESCALATED, Place, Span
from common.types import Hop


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
