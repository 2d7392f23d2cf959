"""Lets the log forget what is older than the owner wants to keep, a little at a time."""

import logging
import threading
import time
from types import TracebackType
from typing import Self

import sqlalchemy as sa

from common.errors import StoreError
from common.store.engine import storing
from common.store.schema import hop, request_log

_LOGGER = logging.getLogger(__name__)
_CHUNK = 1000  # requests deleted in one transaction, so that the writer never waits long
_PAUSE_S = 0.05
_INTERVAL_S = 3600.0
_DAY_S = 86_400.0


def prune(engine: sa.Engine, before: float, stopping: threading.Event | None = None) -> int:
    """Delete the requests that were recorded before a moment (seconds since the epoch), with their hops.

    The recorder's clock counts, not the devices', of which one may be wrong by years.
    """
    old = sa.select(request_log.c.request_id).where(request_log.c.recorded_at < before)
    oldest = old.order_by(request_log.c.recorded_at, request_log.c.request_id).limit(_CHUNK)
    deleted = 0
    while stopping is None or not stopping.wait(_PAUSE_S):
        with storing(engine), engine.begin() as connection:
            ids = list(connection.scalars(oldest))
            connection.execute(sa.delete(hop).where(hop.c.request_id.in_(ids)))
            connection.execute(sa.delete(request_log).where(request_log.c.request_id.in_(ids)))
        deleted += len(ids)
        if len(ids) < _CHUNK:
            break
    return deleted


class Retention:
    """A thread that prunes at the start and every hour."""

    def __init__(self, engine: sa.Engine, keep_days: float, *, interval_s: float = _INTERVAL_S) -> None:
        self._engine = engine
        self._keep_s = keep_days * _DAY_S
        self._interval_s = interval_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log-retention")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            try:
                deleted = prune(self._engine, time.time() - self._keep_s, self._stopping)
                if deleted:
                    _LOGGER.info("forgot %d requests older than %g days", deleted, self._keep_s / _DAY_S)
            except StoreError as exc:  # the log is busy or full; the writer says what matters, and the next hour comes
                _LOGGER.warning("old requests stay in the log for now: %s", exc)
            if self._stopping.wait(self._interval_s):
                return
