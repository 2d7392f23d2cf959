"""Where the answers of each model revision exited: what a bundle's own record can be held against."""

import sqlalchemy as sa

from common.store.engine import storing
from common.store.queries import NO_FILTERS, Filters
from common.store.schema import request_log
from common.types import Reason

_COLUMN = request_log.c
_CHOSEN = (Reason.CONFIDENT, Reason.FINAL)  # a fallback's exit is nobody's choice


def exit_counts(engine: sa.Engine, filters: Filters = NO_FILTERS) -> dict[str, dict[int, int]]:
    """Count the answers by model revision and exit layer; fallbacks are left out."""
    statement = (
        sa.select(_COLUMN.model_revision, _COLUMN.exit_layer, sa.func.count())
        .where(_COLUMN.reason.in_([reason.value for reason in _CHOSEN]), *filters.conditions())
        .group_by(_COLUMN.model_revision, _COLUMN.exit_layer)
        .order_by(_COLUMN.model_revision, _COLUMN.exit_layer)
    )
    with storing(engine), engine.begin() as connection:
        rows = connection.execute(statement).all()
    found: dict[str, dict[int, int]] = {}
    for revision, layer, count in rows:
        found.setdefault(revision, {})[layer] = count
    return found


def tier_counts(engine: sa.Engine, filters: Filters = NO_FILTERS) -> dict[str, int]:
    """Count the answers by the tier that gave them."""
    statement = sa.select(_COLUMN.exit_tier, sa.func.count()).where(*filters.conditions()).group_by(_COLUMN.exit_tier)
    with storing(engine), engine.begin() as connection:
        return {row.exit_tier: row[1] for row in connection.execute(statement)}
