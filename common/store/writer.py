"""The one thread that writes the log: appends return at once, commits take whatever is queued."""

import functools
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from operator import itemgetter
from types import TracebackType
from typing import NamedTuple, Self

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.compiler import SQLCompiler

from common.errors import DimeeError, OverloadedError, StoreError
from common.store.engine import is_busy, storing
from common.store.rows import Row, hop_rows, request_row
from common.store.schema import hop, request_log
from common.types import Record

_LOGGER = logging.getLogger(__name__)
_Entry = tuple[Row, list[Row]]
_RETRY_S = 0.1


class Committed(NamedTuple):
    """A request that the log now holds, and whose it is."""

    device_id: str
    request_id: str


class RequestLogWriter:
    """Append records from any thread; a repeated request is ignored, yet reported as committed.

    ``on_committed`` and ``on_crash`` run on the writer's thread and must return soon.
    """

    def __init__(
        self,
        engine: sa.Engine,
        on_committed: Callable[[Sequence[Committed]], None] | None = None,
        *,
        on_crash: Callable[[], None] | None = None,
        max_queued: int = 10_000,
        max_batch: int = 1000,
        linger_s: float = 0.02,
        busy_limit_s: float = 60.0,
        stop_limit_s: float = 10.0,
    ) -> None:
        self._engine = engine
        self._on_committed = on_committed
        self._on_crash = on_crash
        self._queue: queue.Queue[_Entry | None] = queue.Queue(max_queued)
        self._max_batch = max_batch
        self._linger_s = linger_s
        self._busy_limit_s = busy_limit_s
        self._stop_limit_s = stop_limit_s
        self._lock = threading.Lock()  # no record may slip in behind the sentinel
        self._is_open = False
        self._giving_up = threading.Event()
        self._cause: Exception | None = None
        self._accepted = 0
        self._thread = threading.Thread(target=self._run, name="request-log-writer")
        self.committed = 0

    def __enter__(self) -> Self:
        self._is_open = True
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write what was accepted, within the limit, and say what was lost."""
        deadline = time.monotonic() + self._stop_limit_s
        with self._lock:
            self._is_open = False
        self._send_sentinel(deadline)
        self._thread.join(max(0.0, deadline - time.monotonic()))
        self._giving_up.set()
        if self.uncommitted:
            _LOGGER.error("%d accepted records were not written to the log", self.uncommitted)

    @property
    def crashed(self) -> bool:
        """Whether the thread died of an error; nothing more will be written."""
        return self._cause is not None

    @property
    def uncommitted(self) -> int:
        """Accepted records that are not committed: waiting, or lost once the writer has stopped."""
        return self._accepted - self.committed

    def append(self, record: Record) -> None:
        """Queue a record for the next commit.

        Raises:
            WireError: The record holds a value that no column can.
            OverloadedError: The queue is full; the sender may send it again.
            StoreError: The writer has crashed, or is not running.
        """
        entry = (request_row(record, time.time()), hop_rows(record.answer))
        with self._lock:
            if self._cause:
                raise StoreError(f"the log's writer has crashed: {self._cause}") from self._cause
            if not self._is_open:
                raise StoreError("the log's writer is not running")
            try:
                self._queue.put_nowait(entry)
            except queue.Full:
                limit = self._queue.maxsize
                raise OverloadedError(f"{limit} records wait for the log already; send it again later") from None
            self._accepted += 1

    def _send_sentinel(self, deadline: float) -> None:
        while self._thread.is_alive() and time.monotonic() < deadline:
            try:
                self._queue.put(None, timeout=_RETRY_S)
            except queue.Full:
                continue  # accepted records go first
            return

    def _run(self) -> None:
        try:
            while not self._giving_up.is_set() and (batch := self._next_batch()):
                self._commit(batch)
        except Exception as exc:  # whatever it is, the log's owner must learn of it
            self._cause = exc
            _LOGGER.exception("the log's writer has crashed")
            if self._on_crash:
                self._on_crash()

    def _next_batch(self) -> list[_Entry]:
        """Wait for a record, and a moment more for those that come with it: a commit costs as much as many rows."""
        entry = self._queue.get()
        if entry is not None:
            self._giving_up.wait(self._linger_s)
        batch: list[_Entry] = []
        while entry is not None:
            batch.append(entry)
            if len(batch) == self._max_batch:
                break
            try:
                entry = self._queue.get_nowait()
            except queue.Empty:
                break
        else:
            if batch:  # the sentinel ends the next one
                self._queue.put(None)
        return batch

    def _commit(self, batch: list[_Entry]) -> None:
        give_up_at = time.monotonic() + self._busy_limit_s
        while not self._try_commit(batch, give_up_at):
            if self._giving_up.wait(_RETRY_S):
                raise StoreError("the log stayed locked until the stop's limit")
        self.committed += len(batch)
        if self._on_committed:
            try:
                self._on_committed([Committed(row["device_id"], row["request_id"]) for row, _ in batch])
            except DimeeError as exc:  # senders without a receipt send again, and are told then
                _LOGGER.warning("%d records are logged, but their receipts failed: %s", len(batch), exc)

    def _try_commit(self, batch: list[_Entry], give_up_at: float) -> bool:
        try:
            with self._engine.begin() as connection:
                insert_missing(connection, batch)
        except sa.exc.DBAPIError as exc:
            if not is_busy(exc) or time.monotonic() > give_up_at:
                with storing(self._engine):
                    raise
            _LOGGER.warning("the log is locked or its server is away; %d records wait", len(batch))
            return False
        return True


def insert_missing(connection: sa.Connection, entries: list[tuple[Row, list[Row]]]) -> None:
    """Insert the requests that the log does not hold yet, each with its hops; add to the others who lost a race."""
    amendments = [_amendment(row) for row, _ in entries if row["loser_tier"] is not None]
    by_id = {row["request_id"]: (row, hops) for row, hops in reversed(entries)}  # the first of equals wins
    if _insert(connection, _INSERT_REQUEST, [row for row, _ in by_id.values()]) < len(by_id):  # some came again
        key, recorded_at = request_log.c.request_id, request_log.c.recorded_at
        for known, at in connection.execute(sa.select(key, recorded_at).where(key.in_(list(by_id)))).all():
            if at != by_id[known][0]["recorded_at"]:  # hops belong to the record that came first
                del by_id[known]
    _insert(connection, _INSERT_HOP, [hop_row for _, hop_rows_ in by_id.values() for hop_row in hop_rows_])
    if amendments:
        connection.execute(_AMEND, amendments)


def _amendment(row: Row) -> Row:
    return {f"new_{name}": row[name] for name in ("request_id", "device_id", *_RACE)}


def _insert(connection: sa.Connection, statements: dict[str, sa.Insert], rows: list[Row]) -> int:
    """Hand the rows to the driver as they are, and tell how many were missing.

    SQLAlchemy's care for each costs as much as SQLite's insert.
    """
    if not rows:
        return 0
    compiled = _compiled(statements[connection.dialect.name], connection.dialect)
    if compiled.positiontup is None:  # the driver takes names
        return connection.exec_driver_sql(compiled.string, rows).rowcount
    return connection.exec_driver_sql(compiled.string, list(map(itemgetter(*compiled.positiontup), rows))).rowcount


@functools.lru_cache(maxsize=8)
def _compiled(statement: sa.Insert, dialect: sa.Dialect) -> SQLCompiler:
    """Write a statement out once: it takes as long as inserting ten rows."""
    return statement.compile(dialect=dialect)


_RACE = ("race_winner", "loser_tier", "loser_label", "loser_confidence")
_AMEND = (
    sa.update(request_log)
    .where(
        request_log.c.request_id == sa.bindparam("new_request_id"),
        request_log.c.device_id == sa.bindparam("new_device_id"),
        request_log.c.loser_tier.is_(None),
    )
    .values({name: sa.bindparam(f"new_{name}") for name in _RACE})
)
_INSERT_REQUEST = {
    "sqlite": sqlite.insert(request_log).on_conflict_do_nothing(),
    "postgresql": postgresql.insert(request_log).on_conflict_do_nothing(),
}
_INSERT_HOP = {
    "sqlite": sqlite.insert(hop).on_conflict_do_nothing(),
    "postgresql": postgresql.insert(hop).on_conflict_do_nothing(),
}
