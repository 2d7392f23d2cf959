"""Records as rows of the two tables; refuses what the columns cannot hold."""

import math
from typing import Any

from common.errors import WireError
from common.types import POOLS, Answer, Hop, Race, Record

Row = dict[str, Any]
_NO_RACE = Race()
_MAX_INTEGER = 2**63 - 1
_END_OF_TIME = 253_402_300_800  # seconds since the epoch at which the year 10000 begins


def request_row(record: Record, recorded_at: float) -> Row:
    """Lay a record out as a row of ``request_log``.

    Raises:
        WireError: A value does not fit its column, so the peer that sent it is at fault.
    """
    answer = record.answer
    if answer.distances and len(answer.distances) != len(POOLS):
        raise WireError(f"record {answer.request_id!r}: {len(answer.distances)} distances, expected {len(POOLS)}")
    if record.created_at >= _END_OF_TIME:
        raise WireError(f"record {answer.request_id!r}: created_at {record.created_at} lies beyond the year 9999")
    distances = answer.distances or (None, None, None)
    queue_ms, compute_ms, race = answer.queue_ms, answer.compute_ms, record.race or _NO_RACE
    row = {
        "request_id": answer.request_id,
        "created_at": record.created_at,
        "recorded_at": recorded_at,
        "device_id": answer.device_id,
        "exit_tier": answer.exit_tier.value,
        "reason": answer.reason.value,
        "label": answer.label,
        "true_label": record.true_label,
        "total_ms": answer.total_ms,
        "payload_bytes": answer.payload_bytes,
        "cost": answer.cost,
        "confidence": answer.confidence,
        "threshold": answer.threshold,
        "exit_layer": answer.exit_layer,
        "entry_tier": answer.entry_tier.value,
        "pool": answer.pool.value if answer.pool else None,
        "distance_easy": distances[0],
        "distance_moderate": distances[1],
        "distance_hard": distances[2],
        "queue_ms": queue_ms,
        "compute_ms": compute_ms,
        "network_ms": max(0.0, answer.total_ms - queue_ms - compute_ms),  # as ``Answer`` has it
        "tokens": answer.tokens,
        "is_truncated": answer.is_truncated,
        "attempts": answer.attempts,
        "cost_model": answer.cost_model,
        "model_revision": answer.model_revision,
        "detail": answer.detail,
        "text": record.text,
        "race_winner": answer.exit_tier.value if record.race else None,
        "loser_tier": race.loser_tier.value if race.loser_tier else None,
        "loser_label": race.loser_label,
        "loser_confidence": race.loser_confidence,
        "signature": answer.signature.value if answer.signature else None,
    }
    _check(row, answer.request_id)
    return row


def hop_rows(answer: Answer) -> list[Row]:
    """Lay an answer's hops out as rows of ``hop``, in the order of the way.

    Raises:
        WireError: A value does not fit its column.
    """
    rows = [_hop_row(answer.request_id, position, hop) for position, hop in enumerate(answer.hops)]
    for row in rows:
        _check(row, answer.request_id)
    return rows


def _hop_row(request_id: str, position: int, hop: Hop) -> Row:
    return {
        "request_id": request_id,
        "position": position,
        "tier": hop.tier.value,
        "node": hop.node,
        "start_layer": hop.start,
        "end_layer": hop.end,
        "queue_ms": hop.queue_ms,
        "compute_ms": hop.compute_ms,
        "received_bytes": hop.received_bytes,
        "confidence": hop.confidence,
        "variant": hop.variant,
        "predictions": f"[{','.join(map(str, hop.predictions))}]",
        "codec": hop.codec or None,
        "received_tokens": hop.received_tokens if hop.codec else None,
        "received_width": hop.received_width if hop.codec else None,
    }


def _check(row: Row, request_id: str) -> None:
    for column, value in row.items():
        kind = type(value)  # of a column it is one of these, and no subclass
        if kind is str:
            if not value.isprintable() and ("\0" in value or not _is_unicode(value)):
                raise WireError(f"record {request_id!r}: {column} holds a NUL or half a surrogate pair")
        elif kind is float:
            if not math.isfinite(value):
                raise WireError(f"record {request_id!r}: {column} is {value}")
        elif kind is int and not -_MAX_INTEGER <= value <= _MAX_INTEGER:
            raise WireError(f"record {request_id!r}: {column} {value} is beyond 64 bits")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
