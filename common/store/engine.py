"""Opens the log's database for its one writer or for readers; a password never stands in a message."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa

from common.errors import StoreError
from common.store.migrations import current_version, refuse_newer, upgrade

Engine = sa.Engine  # for those who pass one on without knowing SQLAlchemy
Synchronous = Literal["NORMAL", "FULL"]  # NORMAL may lose the last commits at a power cut, but never breaks the file
_BUSY_TIMEOUT_MS = 5000
_JOURNAL_LIMIT_BYTES = 64 * 2**20  # what a checkpoint leaves of a write-ahead log that a long reader let grow
_CACHE_KIB = 32 * 1024  # of pages; request ids fall anywhere in their index


@contextmanager
def writable_log(url: str, *, synchronous: Synchronous = "NORMAL") -> Iterator[sa.Engine]:
    """Open the log for writing, made or migrated where needed.

    Raises:
        StoreError: The folder is missing, the file cannot be written or is no log, or the server refuses.
    """
    parsed = parse(url)
    if parsed.get_backend_name() == "sqlite":
        folder = _file(parsed).resolve().parent
        if not folder.is_dir():
            raise StoreError(f"{_file(parsed)}: there is no folder {folder}; create it or name another log.url")
    engine = _create(parsed, read_only=False, synchronous=synchronous)
    try:
        with storing(engine):
            upgrade(engine)
            _keep_write_ahead_log(engine)
        yield engine
    finally:
        engine.dispose()


@contextmanager
def readable_log(url: str) -> Iterator[sa.Engine]:
    """Open an existing log for queries only, also while another process writes it.

    Raises:
        StoreError: There is no such log, it cannot be read, or a newer release has written it.
    """
    parsed = parse(url)
    if parsed.get_backend_name() == "sqlite" and not _file(parsed).is_file():
        raise StoreError(f"{_file(parsed)}: there is no such log; name another, or start an edge to make it")
    engine = _create(parsed, read_only=True)
    try:
        with storing(engine), engine.connect() as connection:
            found = current_version(connection)
            refuse_newer(connection, found)
            if found == 0:
                raise StoreError(f"{_name(engine.url)}: holds no dimee log; name another with --db")
        yield engine
    finally:
        engine.dispose()


def parse(url: str) -> sa.URL:
    """Understand a database URL, or a path as SQLite's file."""
    if "://" not in url:
        return sa.URL.create("sqlite", database=url)
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        scheme = url.partition("://")[0]
        raise StoreError(f"log.url {scheme}://...: is no database URL, e.g. sqlite:///dimee-log.sqlite") from None
    if parsed.get_backend_name() not in {"sqlite", "postgresql"}:
        raise StoreError(f"log.url {_name(parsed)}: the log is kept in sqlite or postgresql only")
    if parsed.get_backend_name() == "sqlite" and parsed.database in {None, "", ":memory:"}:
        raise StoreError(f"log.url {_name(parsed)}: the log needs a file, e.g. sqlite:///dimee-log.sqlite")
    return parsed


def sqlite_file(url: str) -> Path | None:
    """Give the file of a log that is kept in one, or None for a server's."""
    parsed = parse(url)
    return _file(parsed) if parsed.get_backend_name() == "sqlite" else None


@contextmanager
def storing(engine: sa.Engine) -> Iterator[None]:
    """Turn the database's errors into a StoreError that names the database and the remedy."""
    try:
        yield
    except sa.exc.DBAPIError as exc:
        raise StoreError(f"{_name(engine.url)}: {_cause(exc)}{_remedy(exc)}") from exc


def is_busy(exc: sa.exc.DBAPIError) -> bool:
    """Tell whether the same statement may succeed later: another writer, or a lost server."""
    return exc.connection_invalidated or _code(exc) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def _create(url: sa.URL, *, read_only: bool, synchronous: Synchronous = "NORMAL") -> sa.Engine:
    if url.get_backend_name() == "sqlite":
        return _sqlite(url, read_only=read_only, synchronous=synchronous)
    try:
        return _postgresql(url)
    except ModuleNotFoundError as exc:
        raise StoreError(f"log.url {_name(url)}: needs the package {exc.name!r}; pip install {exc.name}") from exc
    except sa.exc.NoSuchModuleError as exc:
        raise StoreError(
            f"log.url {_name(url)}: SQLAlchemy knows no {url.drivername!r}; try postgresql+psycopg"
        ) from exc


def _postgresql(url: sa.URL) -> sa.Engine:
    engine = sa.create_engine(url, pool_pre_ping=True, hide_parameters=True)

    @sa.event.listens_for(engine, "connect")
    def _on_connect(connection: sa.PoolProxiedConnection, _record: Any) -> None:
        with closing(connection.cursor()) as cursor:  # statements of half a second: either takes longer to begin
            cursor.execute("SET jit = off")
            cursor.execute("SET max_parallel_workers_per_gather = 0")
        connection.commit()

    return engine


def _sqlite(url: sa.URL, *, read_only: bool, synchronous: Synchronous) -> sa.Engine:
    mode = "ro" if read_only else "rwc"
    uri = f"{_file(url).absolute().as_uri()}?mode={mode}"

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)

    engine = sa.create_engine(url, creator=connect, hide_parameters=True)
    begin = "BEGIN" if read_only else "BEGIN IMMEDIATE"  # a reading transaction that turns writer fails at once

    @sa.event.listens_for(engine, "connect")
    def _on_connect(connection: sqlite3.Connection, _record: Any) -> None:
        connection.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        if read_only:
            return
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        connection.execute(f"PRAGMA journal_size_limit = {_JOURNAL_LIMIT_BYTES}")
        connection.execute("PRAGMA foreign_keys = ON")

    @sa.event.listens_for(engine, "begin")
    def _on_begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


def _keep_write_ahead_log(engine: sa.Engine) -> None:
    if engine.dialect.name != "sqlite":
        return
    with closing(engine.raw_connection()) as connection:  # outside a transaction; the file remembers it
        connection.cursor().execute("PRAGMA journal_mode = WAL")


def _file(url: sa.URL) -> Path:
    return Path(url.database or "")


def _name(url: sa.URL) -> str:
    if url.get_backend_name() == "sqlite":
        return url.database or str(url)
    return url.render_as_string(hide_password=True)


def _code(exc: sa.exc.DBAPIError) -> int:
    extended: int = getattr(exc.orig, "sqlite_errorcode", 0)
    return extended & 0xFF


def _cause(exc: sa.exc.DBAPIError) -> str:
    return str(exc.orig).strip().partition("\n")[0]


def _remedy(exc: sa.exc.DBAPIError) -> str:
    match _code(exc):
        case sqlite3.SQLITE_NOTADB:
            return "; name another file, or move this one away"
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
            return "; the file and its folder must be writable for this user"
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return "; another process holds it for writing, stop that one or wait"
        case sqlite3.SQLITE_FULL:
            return "; free some space on the disk"
        case sqlite3.SQLITE_CORRUPT:
            return "; recover it with 'sqlite3 FILE .recover', or move it away"
    return ""
