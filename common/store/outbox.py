"""A device's outbox on disk: accepted requests and unreceipted records, in one SQLite file of one process.

A statement that has returned survives a kill of the process; ``sync`` makes it survive a power cut as well.
"""

import logging
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import msgspec
import sqlalchemy as sa

from common.errors import DamagedError, StoreError
from common.store.engine import storing
from common.store.promises import Accepted, Contents, Finished, Forgotten, Kept, Promised, Refused, Step

_LOGGER = logging.getLogger(__name__)
_VERSION = 1
_BUSY_TIMEOUT_MS = 1000  # a killed predecessor's lock is gone at once; a living one keeps it
_CHECKPOINT_PAGES = 4000
_DAMAGED = (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)

_SCHEMA = """
CREATE TABLE request (
    request_id  TEXT NOT NULL PRIMARY KEY,
    input_id    TEXT,              -- the application's own name for it
    created_at  REAL NOT NULL,     -- seconds since the epoch, by the device's wall clock
    deadline    REAL NOT NULL,     -- the same
    text        TEXT,              -- null once it is answered
    pair        TEXT,
    true_label  TEXT,
    record      BLOB,              -- what the recorder is to get; null until it is answered
    is_recorded INTEGER NOT NULL DEFAULT 0,  -- receipted or refused; kept for its input_id
    refusal     TEXT               -- why the recorder does not want it
) STRICT, WITHOUT ROWID
"""


class OutboxFile:
    """The file's statements; the caller lets one thread in at a time, but for ``sync``."""

    def __init__(self, connection: sa.Connection, path: Path, *, max_remembered: int) -> None:
        self._connection = connection
        self._path = path
        self._max_remembered = max_remembered
        self._driver: sqlite3.Connection = connection.connection.dbapi_connection  # type: ignore[assignment]
        self._log = os.open(f"{path}-wal", os.O_RDONLY)  # carries no locks, so opening it loses none

    def close(self) -> None:
        """Let go of the write-ahead log."""
        os.close(self._log)

    def apply(self, steps: Sequence[Step]) -> None:
        """Keep what a run of steps comes to, in one transaction; the same steps may be applied again.

        Raises:
            StoreError: The disk refuses, and nothing of it is kept.
        """
        net = _Net(steps)
        many = self._driver.executemany
        try:
            self._driver.execute("BEGIN IMMEDIATE")
            many(_ACCEPT, net.accepted)
            many(_FINISH, net.finished)
            many(_REFUSE, net.refused)
            many(_REMEMBER, net.forgotten)
            many(_FORGET, net.forgotten)
            self._driver.execute(_PRUNE, (self._max_remembered,))
            self._driver.execute("COMMIT")
        except sqlite3.Error as exc:
            if self._driver.in_transaction:
                self._driver.execute("ROLLBACK")
            self._fail(exc)

    def load(self) -> Contents:
        """Read what waits."""
        with storing(self._connection.engine):
            waiting = self._connection.exec_driver_sql(_UNANSWERED).all()
            kept = self._connection.exec_driver_sql(_ANSWERED).all()
        records = [(Kept(request_id=row[0], input_id=row[1], record=row[2]), bool(row[3])) for row in kept]
        return Contents(
            unanswered=tuple(Promised(**row._asdict()) for row in waiting),
            unrecorded=tuple(one for one, is_recorded in records if not is_recorded),
            recorded=tuple(one for one, is_recorded in records if is_recorded),
        )

    def sync(self) -> None:
        """Wait until the disk has all statements that have returned; any thread may.

        Raises:
            StoreError: The disk refuses.
        """
        try:
            os.fsync(self._log)
        except OSError as exc:
            raise StoreError(f"{self._path}: cannot be synced to disk: {exc}") from exc

    def _fail(self, exc: sqlite3.Error) -> NoReturn:
        if getattr(exc, "sqlite_errorcode", 0) & 0xFF in _DAMAGED:
            raise DamagedError(f"{self._path}: {exc}") from exc
        with storing(self._connection.engine):
            raise sa.exc.DBAPIError(None, None, exc) from exc
        raise AssertionError("storing raises")


class _Net:
    """What a run of steps comes to, as rows of SQL's statements."""

    def __init__(self, steps: Sequence[Step]) -> None:
        accepted: dict[str, Promised] = {}
        finished: dict[str, Finished] = {}
        refused: dict[str, str] = {}
        forgotten: dict[str, None] = {}
        for step in steps:
            match step:
                case Accepted(promised):
                    accepted[promised.request_id] = promised
                case Finished():
                    finished[step.request_id] = step
                    forgotten.pop(step.request_id, None)  # it says more than what the recorder has
                case Forgotten(request_ids):
                    forgotten.update(dict.fromkeys(request_ids))
                case Refused():
                    refused[step.request_id] = step.reason
        is_over = forgotten.keys()
        self.accepted = [
            msgspec.structs.astuple(promised) for promised in accepted.values() if promised.request_id not in finished
        ]
        self.finished = [
            msgspec.structs.astuple(one) for one in finished.values() if one.input_id or one.request_id not in is_over
        ]
        self.refused = [(reason, request_id) for request_id, reason in refused.items()]
        self.forgotten = [(request_id,) for request_id in forgotten]


_REFUSE = "UPDATE request SET is_recorded = 1, refusal = ? WHERE request_id = ?"
_REMEMBER = "UPDATE request SET is_recorded = 1 WHERE request_id = ? AND input_id IS NOT NULL"
_FORGET = "DELETE FROM request WHERE request_id = ? AND input_id IS NULL"
_ACCEPT = (
    "INSERT OR IGNORE INTO request (request_id, input_id, created_at, deadline, text, pair, true_label) "
    "VALUES (?, ?, ?, ?, ?, ?, ?)"
)
_FINISH = (
    "INSERT INTO request (request_id, input_id, created_at, deadline, record) VALUES (?, ?, ?, ?, ?) "
    "ON CONFLICT (request_id) DO UPDATE SET record = excluded.record, text = NULL, pair = NULL, "
    "is_recorded = 0"
)
_PRUNE = (
    "DELETE FROM request WHERE is_recorded = 1 AND request_id <= "
    "(SELECT request_id FROM request WHERE is_recorded = 1 ORDER BY request_id DESC LIMIT 1 OFFSET ?)"
)
_UNANSWERED = (
    "SELECT request_id, input_id, created_at, deadline, text, pair, true_label FROM request "
    "WHERE record IS NULL ORDER BY deadline"
)
_ANSWERED = (
    "SELECT request_id, input_id, record, is_recorded FROM request WHERE record IS NOT NULL "
    "AND refusal IS NULL ORDER BY deadline"
)


@contextmanager
def outbox_file(path: Path, *, max_remembered: int) -> Iterator[OutboxFile]:
    """Open a device's outbox; a damaged file is kept aside and a fresh one begun.

    Raises:
        StoreError: The folder is missing, the disk refuses, another process holds it, or it is of a newer release.
    """
    folder = path.resolve().parent
    if not folder.is_dir():
        raise StoreError(f"{path}: there is no folder {folder}; create it or name another outbox.path")
    engine = _engine(path)
    try:
        connection = _open(engine, path)
    except DamagedError as exc:
        engine.dispose()
        aside = _set_aside(path)
        _LOGGER.error("%s is damaged (%s); it is kept as %s and an empty outbox begun", path, exc, aside)  # noqa: TRY400 - the cause is said
        engine = _engine(path)
        connection = _open(engine, path)
    try:
        opened = OutboxFile(connection, path, max_remembered=max_remembered)
        try:
            yield opened
        finally:
            opened.close()
    finally:
        connection.close()
        engine.dispose()


def _engine(path: Path) -> sa.Engine:
    def connect() -> sqlite3.Connection:
        return sqlite3.connect(path, isolation_level=None, check_same_thread=False)

    return sa.create_engine(sa.URL.create("sqlite", database=str(path)), creator=connect, hide_parameters=True)


def _open(engine: sa.Engine, path: Path) -> sa.Connection:
    try:
        connection = engine.connect()
        try:
            _prepare(connection, path)
        except BaseException:
            connection.close()
            raise
    except sa.exc.DatabaseError as exc:
        if getattr(exc.orig, "sqlite_errorcode", 0) & 0xFF in _DAMAGED:
            raise DamagedError(str(exc.orig)) from exc
        with storing(engine):
            raise
    return connection


def _prepare(connection: sa.Connection, path: Path) -> None:
    run = connection.exec_driver_sql
    run(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
    run("PRAGMA locking_mode = EXCLUSIVE")  # two processes on one outbox would answer everything twice
    run("PRAGMA journal_mode = WAL")
    run("PRAGMA synchronous = NORMAL")  # sync() follows; a checkpoint syncs by itself
    run(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
    found = run("PRAGMA quick_check(1)").scalar()
    if found != "ok":
        raise DamagedError(found)
    version = run("PRAGMA user_version").scalar() or 0
    if version > _VERSION:
        raise StoreError(
            f"{path}: the outbox has version {version}, this release knows up to {_VERSION}; upgrade dimee"
        )
    run("BEGIN IMMEDIATE")
    if version == 0:
        run(_SCHEMA)
        run("CREATE INDEX request_recorded ON request (request_id) WHERE is_recorded = 1")
    run(f"PRAGMA user_version = {_VERSION}")
    run("COMMIT")


def _set_aside(path: Path) -> Path:
    aside = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%dT%H%M%S')}-{time.time_ns() % 10**6:06d}")
    for suffix in ("", "-wal", "-shm"):
        source = Path(f"{path}{suffix}")
        if source.exists():
            source.rename(f"{aside}{suffix}")
    return aside
