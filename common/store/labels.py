"""Ground truth that comes later: the true label of requests that are in the log already."""

from collections.abc import Mapping

import sqlalchemy as sa

from common.errors import ConfigError, StoreError
from common.store.engine import storing
from common.store.schema import request_log

_CHUNK = 500
_COLUMN = request_log.c


def label_requests(engine: sa.Engine, labels: Mapping[str, str], *, may_be_new: bool = False) -> int:
    """Set the true labels, all or none; give how many rows changed.

    Raises:
        ConfigError: A label is none of those that the log has seen, and new ones are not allowed.
        StoreError: The log does not hold a request.
    """
    with storing(engine), engine.begin() as connection:
        if not may_be_new:
            _check_labels(connection, set(labels.values()))
        _check_requests(connection, list(labels))
        changed = 0
        for request_id, label in labels.items():
            is_other = _COLUMN.true_label.is_distinct_from(label)
            statement = sa.update(request_log).where(_COLUMN.request_id == request_id, is_other)
            changed += connection.execute(statement.values(true_label=label)).rowcount
        return changed


def _check_labels(connection: sa.Connection, wanted: set[str]) -> None:
    for label in sorted(wanted):
        if not connection.scalar(sa.select(sa.exists().where(_COLUMN.label == label))):
            known = connection.scalars(sa.select(_COLUMN.label).where(_COLUMN.label.is_not(None)).distinct())
            raise ConfigError(f"label {label!r} was never answered, only {sorted(known)}; add --new if it is right")


def _check_requests(connection: sa.Connection, wanted: list[str]) -> None:
    for start in range(0, len(wanted), _CHUNK):
        chunk = wanted[start : start + _CHUNK]
        found = set(connection.scalars(sa.select(_COLUMN.request_id).where(_COLUMN.request_id.in_(chunk))))
        missing = [request_id for request_id in chunk if request_id not in found]
        if missing:
            raise StoreError(f"the log holds no request {missing[0]!r}; nothing was labelled")
