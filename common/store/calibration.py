"""How right the log's answers were, and how well their confidence told it, where the true label is known."""

from collections.abc import Sequence

import msgspec
import sqlalchemy as sa

from common.store.engine import storing
from common.store.queries import NO_FILTERS, Filters
from common.store.schema import request_log

_COLUMN = request_log.c
_BINS = 10


class Bin(msgspec.Struct, frozen=True, kw_only=True):
    """Answers of about the same confidence."""

    answered: int
    confidence: float  # their mean, 0..1
    accuracy: float


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """A group of labelled answers."""

    tier: str
    device: str
    labelled: int
    accuracy: float
    confidence: float  # their mean
    calibration_error: float  # expected calibration error over ten bins (Guo et al. 2017, section 3), 0..1
    bins: tuple[Bin, ...]


def calibration(engine: sa.Engine, filters: Filters = NO_FILTERS) -> list[Calibration]:
    """Reckon accuracy and calibration of the labelled answers, by tier and device."""
    place = sa.case((_COLUMN.confidence >= 1.0, _BINS - 1), else_=sa.func.floor(_COLUMN.confidence * _BINS))
    statement = (
        sa.select(
            _COLUMN.exit_tier,
            _COLUMN.device_id,
            place.label("place"),
            sa.func.count().label("answered"),
            sa.func.sum(_COLUMN.confidence).label("confidence"),
            sa.func.count().filter(_COLUMN.label == _COLUMN.true_label).label("correct"),
        )
        .where(_COLUMN.true_label.is_not(None), _COLUMN.label.is_not(None), *filters.conditions())
        .group_by(_COLUMN.exit_tier, _COLUMN.device_id, sa.text("place"))
    )
    with storing(engine), engine.begin() as connection:
        rows = connection.execute(statement).mappings().all()
    groups: dict[tuple[str, str], list[sa.RowMapping]] = {}
    for row in rows:
        groups.setdefault((row["exit_tier"], row["device_id"]), []).append(row)
    return [_calibration(tier, device, rows) for (tier, device), rows in sorted(groups.items())]


def _calibration(tier: str, device: str, rows: Sequence[sa.RowMapping]) -> Calibration:
    labelled = sum(row["answered"] for row in rows)
    bins = tuple(
        Bin(
            answered=row["answered"],
            confidence=row["confidence"] / row["answered"],
            accuracy=row["correct"] / row["answered"],
        )
        for row in sorted(rows, key=lambda row: int(row["place"]))
    )
    return Calibration(
        tier=tier,
        device=device,
        labelled=labelled,
        accuracy=sum(row["correct"] for row in rows) / labelled,
        confidence=sum(row["confidence"] for row in rows) / labelled,
        calibration_error=sum(each.answered * abs(each.accuracy - each.confidence) for each in bins) / labelled,
        bins=bins,
    )
