"""Figures over the log, per tier and in all, read from indexes so that a million requests take under a second."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec
import sqlalchemy as sa

from common.store.engine import storing
from common.store.queries import NO_FILTERS, Filters
from common.store.schema import request_log
from common.types import TIERS, Reason, Tier

_COLUMN = request_log.c
_BUCKETS = 64  # of latencies, each a 64th longer than the one before
_SLACK_MS = 1e-3  # more than rounding takes


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What a group of requests comes to; None where there is nothing to measure."""

    answered: int
    share: float  # of all requests that count, 0..1
    labelled: int  # whose true label is known
    accuracy: float | None  # of the labelled
    latency_ms_p50: float | None  # nearest rank
    latency_ms_p95: float | None
    payload_bytes_per_request: float | None
    cost_per_request: float | None
    reasons: dict[Reason, int]


class Races(msgspec.Struct, frozen=True, kw_only=True):
    """Requests for which the device's own exit ran beside another tier's."""

    requests: int
    won_by_device: int
    compared: int  # both have said something
    agreed: int  # and the same


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """The log in figures."""

    requests: int
    first_created_at: float | None  # seconds since the epoch, by the devices' clocks
    last_created_at: float | None
    overall: Figures
    tiers: dict[Tier, Figures]  # the tiers that answered
    races: Races


_RACES = sa.select(
    sa.func.count().label("requests"),
    sa.func.count().filter(_COLUMN.race_winner == Tier.DEVICE.value).label("won_by_device"),
    sa.func.count(_COLUMN.loser_label).label("compared"),
    sa.func.count().filter(_COLUMN.loser_label == _COLUMN.label).label("agreed"),
).where(_COLUMN.race_winner.in_([tier.value for tier in TIERS]))  # so SQLite takes the index of the few


class _Percentiles(NamedTuple):
    p50: float | None
    p95: float | None


class _Latencies(NamedTuple):
    """How many requests fall into each bucket of latencies; buckets are numbered from fast to slow."""

    tiers: Sequence[Tier]
    counts: Counter[int]


def stats(engine: sa.Engine, filters: Filters = NO_FILTERS) -> Stats:
    """Reckon the figures of all requests that pass the filters, as of one moment."""
    conditions = _conditions(filters)
    with storing(engine), engine.begin() as connection:
        rows = _sums(connection, conditions)
        groups = {tier: found for tier in TIERS if (found := [row for row in rows if row["exit_tier"] == tier.value])}
        percentiles = {tier: _percentiles(connection, conditions, _latencies([tier], groups)) for tier in groups}
        overall = _percentiles(connection, conditions, _latencies(list(groups), groups))
        races = Races(**connection.execute(_RACES.where(*_conditions(filters, is_tier_indexed=False))).mappings().one())
    requests = sum(row["answered"] for row in rows)
    return Stats(
        requests=requests,
        first_created_at=min((row["first"] for row in rows), default=None),
        last_created_at=max((row["last"] for row in rows), default=None),
        overall=_figures(rows, requests, overall),
        tiers={tier: _figures(found, requests, percentiles[tier]) for tier, found in groups.items()},
        races=races,
    )


def _conditions(filters: Filters, *, is_tier_indexed: bool = True) -> list[sa.ColumnElement[bool]]:
    # coalesce keeps SQLite off the narrow indexes, whose rows it would have to fetch one by one
    pairs = [(filters.device, _COLUMN.device_id), (filters.label, _COLUMN.label), (filters.reason, _COLUMN.reason)]
    indexed = msgspec.structs.replace(filters, device=None, label=None, reason=None)
    if not is_tier_indexed:
        pairs.append((filters.tier, _COLUMN.exit_tier))
        indexed = msgspec.structs.replace(indexed, tier=None)
    equal = [sa.func.coalesce(column, "") == value for value, column in pairs if value is not None]
    return [*indexed.conditions(), *equal]


def _sums(connection: sa.Connection, conditions: list[sa.ColumnElement[bool]]) -> Sequence[sa.RowMapping]:
    """Sum up by tier and bucket, in one pass."""
    by_reason = [sa.func.count().filter(_COLUMN.reason == reason.value).label(reason.value) for reason in Reason]
    bucket = _bucket(connection)
    statement = (
        sa.select(
            _COLUMN.exit_tier,
            (sa.literal(0) if bucket is None else bucket).label("bucket"),
            sa.func.count().label("answered"),
            sa.func.min(_COLUMN.created_at).label("first"),
            sa.func.max(_COLUMN.created_at).label("last"),
            sa.func.count(_COLUMN.true_label).label("labelled"),
            sa.func.count().filter(_COLUMN.label == _COLUMN.true_label).label("correct"),
            sa.func.sum(_COLUMN.payload_bytes).label("payload_bytes"),
            sa.func.sum(_COLUMN.cost).label("cost"),
            *by_reason,
        )
        .where(*conditions)
        .group_by(_COLUMN.exit_tier, *([] if bucket is None else [sa.text("bucket")]))
    )
    return connection.execute(statement).mappings().all()


def _bucket(connection: sa.Connection) -> sa.ColumnElement[int] | None:
    """Number a latency's bucket; None where all lie in one.

    PostgreSQL sorts a whole tier to skip along it, so it looks through one bucket only. SQLite skips along the index in
    a third of the time that grouping by anything but the index would take.
    """
    if connection.dialect.name == "sqlite":
        return None
    number = sa.func.floor(sa.func.ln(_COLUMN.total_ms + 1.0) * sa.literal_column(str(_BUCKETS)))
    return sa.cast(number, sa.Integer)


def _latencies(tiers: Sequence[Tier], groups: Mapping[Tier, Sequence[sa.RowMapping]]) -> _Latencies:
    counts: Counter[int] = Counter()
    for tier in tiers:
        for row in groups[tier]:
            counts[row["bucket"]] += row["answered"]
    return _Latencies(tiers, counts)


def _percentiles(
    connection: sa.Connection, conditions: list[sa.ColumnElement[bool]], latencies: _Latencies
) -> _Percentiles:
    requests = latencies.counts.total()
    if not requests:
        return _Percentiles(None, None)
    ranks = (math.ceil(requests / 2), math.ceil(requests * 95 / 100))
    return _Percentiles(*(_ranked(connection, conditions, latencies, rank) for rank in ranks))


def _ranked(
    connection: sa.Connection, conditions: list[sa.ColumnElement[bool]], latencies: _Latencies, rank: int
) -> float:
    """Find a latency by its rank, from 1: skip along the index within its bucket, from whichever end is nearer."""
    bucket, place = 0, rank - 1
    for bucket in sorted(latencies.counts):
        if place < latencies.counts[bucket]:
            break
        place -= latencies.counts[bucket]
    within = [*conditions, *_in_bucket(connection, bucket)]
    # one ordered walk per tier, merged: the index holds the latencies in order within a tier only
    walks = [sa.select(_COLUMN.total_ms).where(_COLUMN.exit_tier == tier.value, *within) for tier in latencies.tiers]
    walk = sa.union_all(*walks) if len(walks) > 1 else walks[0]
    latency: sa.ColumnElement[float] = sa.literal_column("total_ms")
    from_the_end = latencies.counts[bucket] - 1 - place
    ordered = walk.order_by(latency) if place <= from_the_end else walk.order_by(latency.desc())
    found: float = connection.execute(ordered.limit(1).offset(min(place, from_the_end))).scalar_one()
    return found


def _in_bucket(connection: sa.Connection, number: int) -> list[sa.ColumnElement[bool]]:
    """Say so twice: exactly, and as a range a little wider, which the index knows."""
    bucket = _bucket(connection)
    if bucket is None:
        return []
    low, high = (math.expm1(edge / _BUCKETS) for edge in (number, number + 1))
    return [bucket == number, _COLUMN.total_ms.between(low - _SLACK_MS, high + _SLACK_MS)]


def _figures(rows: Sequence[sa.RowMapping], requests: int, percentiles: _Percentiles) -> Figures:
    answered, labelled = (sum(row[name] for row in rows) for name in ("answered", "labelled"))
    reasons = {reason: sum(row[reason.value] for row in rows) for reason in Reason}
    return Figures(
        answered=answered,
        share=answered / requests if requests else 0.0,
        labelled=labelled,
        accuracy=_ratio(sum(row["correct"] for row in rows), labelled),
        latency_ms_p50=percentiles.p50,
        latency_ms_p95=percentiles.p95,
        payload_bytes_per_request=_ratio(float(sum(row["payload_bytes"] for row in rows)), answered),
        cost_per_request=_ratio(sum(row["cost"] for row in rows), answered),
        reasons={reason: count for reason, count in reasons.items() if count},
    )


def _ratio(part: float, whole: int) -> float | None:
    return part / whole if whole else None
