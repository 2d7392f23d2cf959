"""What a device tells of a request's trace: the whole of it, its own computing, and what it waited for."""

from collections.abc import Sequence
from concurrent.futures import Future

from common.service.telemetry.tracing import Span, Tracer
from common.types import Answer, Tier
from device_agent.pending import Pending


def trace(tracer: Tracer, pending: Pending) -> None:
    """Tell of a request once it is answered, on the thread that answers."""
    if pending.place.own is not None:
        pending.future.add_done_callback(lambda future: tracer.tell(_spans(pending, future)))


def _spans(pending: Pending, future: Future[Answer]) -> Sequence[Span]:
    place = pending.place
    if place.own is None or future.exception() is not None:  # the agent died; the next process answers
        return ()
    answer = future.result()
    answered_at = pending.accepted_at + answer.total_ms / 1000
    outcome: dict[str, str | int] = {
        "dimee.tier": str(answer.exit_tier),
        "dimee.exit_layer": answer.exit_layer,
        "dimee.reason": str(answer.reason),
        "dimee.revision": answer.model_revision,
        "dimee.request_id": answer.request_id,
    }
    here: dict[str, str | int] = {"dimee.tier": str(Tier.DEVICE)}
    began_at = _wall(pending, pending.accepted_at)
    spans = [Span("request", place.own, place.parent, "server", began_at, answer.total_ms, outcome)]
    if pending.hops:
        compute_ms = pending.hops[0].compute_ms
        computed_at = _wall(pending, pending.computed_at)
        spans.append(Span("compute", place.own.child(), place.own, "internal", computed_at, compute_ms, here))
    if pending.attempts and place.onward is not None:
        waited_ms = max(0.0, (answered_at - pending.left_at) * 1000)
        spans.append(
            Span("network", place.onward, place.own, "client", _wall(pending, pending.left_at), waited_ms, here)
        )
    return spans


def _wall(pending: Pending, at: float) -> float:
    """Turn monotonic seconds into seconds since the epoch, by the one wall clock reading of the request."""
    return pending.promised.created_at + (at - pending.accepted_at)
