"""Lets the log forget what is older than the owner wants to keep, a little at a time."""

import logging
import sqlite3
import threading
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import sqlalchemy as sa

from common.errors import StoreError
from common.store.engine import storing
from common.store.schema import hop, request_log

_LOGGER = logging.getLogger(__name__)
_CHUNK = 1000  # requests deleted in one transaction, so that the writer never waits long
_PAUSE_S = 0.05
_SEARCHED = 1000  # request ids that are looked for afterwards, evenly chosen
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgotten:
    """What was deleted, and what a search of the files' bytes found of it."""

    deleted: int
    searched_for: int  # request ids
    found: int
    searched_bytes: int  # 0 on a server, whose files are not ours to read


def forget(engine: sa.Engine, *, device: str | None, before: float | None) -> Forgotten:
    """Delete a device's requests, or what was recorded before a moment, and look for what is left on the disk.

    Raises:
        StoreError: Another process reads or writes for so long that the file cannot be rewritten.
    """
    conditions = [] if device is None else [request_log.c.device_id == device]
    conditions += [] if before is None else [request_log.c.recorded_at < before]
    is_sqlite = engine.dialect.name == "sqlite"
    with storing(engine):
        with engine.connect() as connection:
            ids = list(connection.scalars(sa.select(request_log.c.request_id).where(*conditions)))
        with engine.begin() as connection:
            doomed = sa.select(request_log.c.request_id).where(*conditions)
            connection.execute(sa.delete(hop).where(hop.c.request_id.in_(doomed)))
            connection.execute(sa.delete(request_log).where(*conditions))
        if is_sqlite:
            _rewrite(engine)
        else:
            with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.exec_driver_sql("VACUUM FULL")
    needles = [each.encode() for each in ids[:: max(1, len(ids) // _SEARCHED)]]
    content = _bytes_of(engine) if is_sqlite else b""
    return Forgotten(
        deleted=len(ids),
        searched_for=len(needles),
        found=sum(each in content for each in needles),
        searched_bytes=len(content),
    )


def _rewrite(engine: sa.Engine) -> None:
    """Write the file anew without its free pages, and empty the write-ahead log."""
    with closing(engine.raw_connection()) as connection:  # outside a transaction
        try:
            for statement in ("PRAGMA wal_checkpoint(TRUNCATE)", "VACUUM", "PRAGMA wal_checkpoint(TRUNCATE)"):
                connection.cursor().execute(statement).fetchall()
        except sqlite3.Error as exc:
            raise sa.exc.DBAPIError(None, None, exc) from exc


def _bytes_of(engine: sa.Engine) -> bytes:
    path = engine.url.database or ""
    return b"".join(Path(f"{path}{suffix}").read_bytes() for suffix in ("", "-wal") if Path(f"{path}{suffix}").exists())


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
