"""Questions to the log: the newest requests, one with its way, and all of them in the order they arose."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa

from common.store.engine import storing
from common.store.schema import hop, request_log
from common.types import Pool, Reason, Signature, Tier

_CHUNK = 1000  # requests read at once


class Filters(msgspec.Struct, frozen=True, kw_only=True):
    """Which requests count; what is None does not restrict."""

    tier: Tier | None = None  # that answered
    device: str | None = None
    label: str | None = None
    reason: Reason | None = None
    since: float | None = None  # seconds since the epoch, included
    until: float | None = None  # seconds since the epoch, excluded

    def conditions(self) -> list[sa.ColumnElement[bool]]:
        """Say the same in SQL."""
        column = request_log.c
        pairs = (
            (self.tier, column.exit_tier.__eq__),
            (self.device, column.device_id.__eq__),
            (self.label, column.label.__eq__),
            (self.reason, column.reason.__eq__),
            (self.since, column.created_at.__ge__),
            (self.until, column.created_at.__lt__),
        )
        return [condition(value) for value, condition in pairs if value is not None]


class LoggedHop(msgspec.Struct, frozen=True, kw_only=True):
    """A row of ``hop``: one tier's part, on that tier's own clock."""

    position: int
    tier: Tier
    node: str
    start_layer: int
    end_layer: int
    queue_ms: float
    compute_ms: float
    received_bytes: int
    confidence: float
    predictions: tuple[int, ...]
    variant: str
    codec: str | None  # null where the request began, and in what was logged before schema version 4
    received_tokens: int | None
    received_width: int | None  # dimensions per token


class LoggedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A row of ``request_log``; the names are the columns'."""

    request_id: str
    created_at: float
    recorded_at: float
    device_id: str
    exit_tier: Tier
    reason: Reason
    label: str | None
    true_label: str | None
    total_ms: float
    payload_bytes: int
    cost: float
    confidence: float
    threshold: float | None
    exit_layer: int
    entry_tier: Tier
    pool: Pool | None
    distance_easy: float | None
    distance_moderate: float | None
    distance_hard: float | None
    queue_ms: float
    compute_ms: float
    network_ms: float
    tokens: int
    is_truncated: bool
    attempts: int
    cost_model: str
    model_revision: str
    detail: str
    text: str | None
    race_winner: Tier | None
    loser_tier: Tier | None
    loser_label: str | None
    loser_confidence: float | None
    signature: Signature | None


class RoutedRequest(LoggedRequest, frozen=True, kw_only=True):
    """A request with its way through the tiers."""

    hops: tuple[LoggedHop, ...]


REQUEST_COLUMNS = LoggedRequest.__struct_fields__
_HOP_COLUMNS = LoggedHop.__struct_fields__
_SELECT = sa.select(*(request_log.c[name] for name in REQUEST_COLUMNS))
_SELECT_HOP = sa.select(hop.c.request_id, *(hop.c[name] for name in _HOP_COLUMNS))
NO_FILTERS = Filters()


def newest(engine: sa.Engine, filters: Filters = NO_FILTERS, *, limit: int = 20) -> list[LoggedRequest]:
    """Give the newest requests by the devices' clocks, newest first."""
    column = request_log.c
    order = (column.created_at.desc(), column.request_id)
    with storing(engine), engine.begin() as connection:
        rows = connection.execute(_SELECT.where(*filters.conditions()).order_by(*order).limit(limit)).all()
    return [msgspec.convert(_fields(row), LoggedRequest) for row in rows]


class Mark(NamedTuple):
    """A place in the order of recording."""

    recorded_at: float
    request_id: str


def recorded_after(
    engine: sa.Engine, mark: Mark, filters: Filters = NO_FILTERS, *, limit: int = 1000
) -> list[LoggedRequest]:
    """Give what was recorded after a place, in the order of recording."""
    column = request_log.c
    order = (column.recorded_at, column.request_id)
    is_later = sa.tuple_(*order) > sa.tuple_(sa.literal(mark.recorded_at), sa.literal(mark.request_id))
    with storing(engine), engine.begin() as connection:
        rows = connection.execute(_SELECT.where(is_later, *filters.conditions()).order_by(*order).limit(limit)).all()
    return [msgspec.convert(_fields(row), LoggedRequest) for row in rows]


def last_recorded(engine: sa.Engine) -> Mark:
    """Give the place of what was recorded last; the beginning where there is nothing."""
    column = request_log.c
    order = (column.recorded_at.desc(), column.request_id.desc())
    with storing(engine), engine.begin() as connection:
        row = connection.execute(sa.select(column.recorded_at, column.request_id).order_by(*order).limit(1)).first()
    return Mark(0.0, "") if row is None else Mark(*row)


def find(engine: sa.Engine, request_id: str) -> RoutedRequest | None:
    """Give one request with its hops, or None."""
    with storing(engine), engine.begin() as connection:
        row = connection.execute(_SELECT.where(request_log.c.request_id == request_id)).one_or_none()
        return _routed(row, _ways(connection, [request_id])) if row else None


def hops_of(engine: sa.Engine, request_ids: list[str]) -> list[LoggedHop]:
    """Give the hops of some requests, in no order."""
    with storing(engine), engine.begin() as connection:
        ways = _ways(connection, request_ids)
    return [each for way in ways.values() for each in way]


def oldest_first(engine: sa.Engine, filters: Filters = NO_FILTERS) -> Iterator[RoutedRequest]:
    """Walk over all requests of one moment's log, a chunk in memory at a time."""
    column = request_log.c
    statement = _SELECT.where(*filters.conditions()).order_by(column.created_at, column.request_id)
    with storing(engine), engine.begin() as connection:
        result = connection.execution_options(yield_per=_CHUNK).execute(statement)
        for rows in result.partitions(_CHUNK):
            ways = _ways(connection, [row.request_id for row in rows])
            for row in rows:
                yield _routed(row, ways)


def _fields(row: sa.Row[Any]) -> dict[str, Any]:
    fields = dict(zip(REQUEST_COLUMNS, row, strict=True))
    return {**fields, "is_truncated": bool(fields["is_truncated"])}  # SQLite keeps 0 and 1


def _routed(row: sa.Row[Any], ways: Mapping[str, list[LoggedHop]]) -> RoutedRequest:
    return msgspec.convert({**_fields(row), "hops": tuple(ways.get(row.request_id, ()))}, RoutedRequest)


def _ways(connection: sa.Connection, request_ids: list[str]) -> dict[str, list[LoggedHop]]:
    statement = _SELECT_HOP.where(hop.c.request_id.in_(request_ids)).order_by(hop.c.request_id, hop.c.position)
    ways: dict[str, list[LoggedHop]] = {}
    for request_id, *values in connection.execute(statement):
        fields = dict(zip(_HOP_COLUMNS, values, strict=True))
        fields["predictions"] = json.loads(fields["predictions"])
        ways.setdefault(request_id, []).append(msgspec.convert(fields, LoggedHop))
    return ways
