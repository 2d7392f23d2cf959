"""Figures over the log, per tier and in all, read from indexes so that a million requests take under a second."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import sqlalchemy as sa

from common.store.engine import storing
from common.store.queries import NO_FILTERS, Filters
from common.store.schema import request_log
from common.types import TIERS, Reason, Tier

_COLUMN = request_log.c


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


def stats(engine: sa.Engine, filters: Filters = NO_FILTERS) -> Stats:
    """Reckon the figures of all requests that pass the filters, as of one moment."""
    conditions = _conditions(filters)
    with storing(engine), engine.begin() as connection:
        groups = {Tier(row["exit_tier"]): row for row in _sums(connection, conditions)}
        tiers = [tier for tier in TIERS if tier in groups]
        percentiles = {tier: _percentiles(connection, conditions, [tier], groups[tier]["answered"]) for tier in tiers}
        requests = sum(row["answered"] for row in groups.values())
        overall = _percentiles(connection, conditions, tiers, requests)
        races = Races(**connection.execute(_RACES.where(*_conditions(filters, is_tier_indexed=False))).mappings().one())
    rows = list(groups.values())
    return Stats(
        requests=requests,
        first_created_at=min((row["first"] for row in rows), default=None),
        last_created_at=max((row["last"] for row in rows), default=None),
        overall=_figures(rows, requests, overall),
        tiers={tier: _figures([groups[tier]], requests, percentiles[tier]) for tier in tiers},
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
    by_reason = [sa.func.count().filter(_COLUMN.reason == reason.value).label(reason.value) for reason in Reason]
    statement = (
        sa.select(
            _COLUMN.exit_tier,
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
        .group_by(_COLUMN.exit_tier)
    )
    return connection.execute(statement).mappings().all()


def _percentiles(
    connection: sa.Connection, conditions: list[sa.ColumnElement[bool]], tiers: list[Tier], requests: int
) -> _Percentiles:
    """Find the nearest ranks by skipping along the index, from whichever end is nearer."""
    if not requests:
        return _Percentiles(None, None)
    # one ordered walk per tier, merged: the index holds the latencies in order within a tier only
    walks = [sa.select(_COLUMN.total_ms).where(_COLUMN.exit_tier == tier.value, *conditions) for tier in tiers]
    walk = sa.union_all(*walks) if len(walks) > 1 else walks[0]
    latency: sa.ColumnElement[float] = sa.literal_column("total_ms")
    upwards = walk.order_by(latency).limit(1).offset(math.ceil(requests / 2) - 1)
    downwards = walk.order_by(latency.desc()).limit(1).offset(requests - math.ceil(requests * 95 / 100))
    return _Percentiles(connection.execute(upwards).scalar_one(), connection.execute(downwards).scalar_one())


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
