"""Records, and a real SQLite file to keep them in."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from common.store.engine import writable_log
from common.store.writer import RequestLogWriter
from common.types import Answer, Hop, Pool, Reason, Record, Tier

RecordMaker = Callable[..., Record]
HOPS = (
    Hop(tier=Tier.DEVICE, node="pi-1", start=0, end=2, queue_ms=0.5, compute_ms=2.0, confidence=0.6, predictions=(1,)),
    Hop(
        tier=Tier.EDGE,
        node="edge-1",
        start=2,
        end=4,
        queue_ms=1.0,
        compute_ms=3.0,
        received_bytes=9000,
        confidence=0.97,
        predictions=(1, 0),
    ),
)


@pytest.fixture
def record() -> RecordMaker:
    """Make a record; keywords replace fields of the answer or of the record."""

    def make(request_id: str = "r-1", **fields: object) -> Record:
        outer = {name: fields.pop(name) for name in ("created_at", "text", "true_label") if name in fields}
        answer = {
            "request_id": request_id,
            "device_id": "pi-1",
            "model_revision": "abc",
            "reason": Reason.CONFIDENT,
            "label": "positive",
            "confidence": 0.97,
            "exit_layer": 4,
            "exit_tier": Tier.EDGE,
            "entry_tier": Tier.DEVICE,
            "total_ms": 12.5,
            "threshold": 0.9,
            "pool": Pool.MODERATE,
            "distances": (1.5, 0.25, 2.0),
            "tokens": 7,
            "payload_bytes": 9000,
            "cost": 4.2,
            "cost_model": "paper",
            "hops": HOPS,
            "attempts": 1,
            **fields,
        }
        return Record(answer=Answer(**answer), **{"created_at": 1_750_000_000.0, **outer})  # type: ignore[arg-type]

    return make


@pytest.fixture
def log_path(tmp_path: Path) -> Path:
    return tmp_path / "log.sqlite"


@pytest.fixture
def log(log_path: Path) -> Iterator[sa.Engine]:
    """An empty log, open for writing."""
    with writable_log(str(log_path)) as engine:
        yield engine


@pytest.fixture
def write(log: sa.Engine) -> Callable[[Iterable[Record]], None]:
    """Write records and wait until they are committed."""

    def write_all(records: Iterable[Record]) -> None:
        with RequestLogWriter(log, max_queued=1_000_000) as writer:
            for each in records:
                writer.append(each)

    return write_all
