"""A query of the user's own: one statement that can only read, within a time and a number of rows."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import sqlalchemy as sa

from common.errors import ConfigError, StoreError
from common.store.engine import storing

_STEPS_BETWEEN_LOOKS = 20_000  # of SQLite's virtual machine; well under a millisecond
_READING = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE})
_CANCELLED = "57014"  # PostgreSQL: query_canceled, by the time limit


class Selected(NamedTuple):
    """Rows with their columns' names."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    is_cut: bool  # there were more rows than asked for


def select(engine: sa.Engine, statement: str, *, limit_s: float, max_rows: int) -> Selected:
    """Run one statement on a log that is open for reading.

    Raises:
        ConfigError: It is no single statement that reads, or names what is not there.
        StoreError: It took longer than the limit.
    """
    statement = statement.strip().rstrip(";")
    try:
        with storing(engine), _reading(engine, limit_s) as connection:
            result = connection.execution_options(stream_results=True).exec_driver_sql(statement)
            if not result.returns_rows:
                raise ConfigError("the statement gives no rows; write a SELECT")
            rows = [tuple(row) for row in result.fetchmany(max_rows + 1)]
            return Selected(tuple(result.keys()), rows[:max_rows], len(rows) > max_rows)
    except StoreError as exc:
        cause = exc.__cause__
        if _is_out_of_time(cause):
            raise StoreError(f"the query was stopped after {limit_s:g} s; ask for less, or raise --timeout") from exc
        if isinstance(cause, sa.exc.ProgrammingError | sa.exc.OperationalError | sa.exc.DatabaseError):
            raise ConfigError(f"the query is refused: {_reason(cause)}") from exc
        raise


@contextmanager
def _reading(engine: sa.Engine, limit_s: float) -> Iterator[sa.Connection]:
    with engine.begin() as connection:
        if engine.dialect.name == "sqlite":
            with _guarded(connection, limit_s):
                yield connection
        else:
            connection.exec_driver_sql("SET TRANSACTION READ ONLY")
            connection.exec_driver_sql(f"SET LOCAL statement_timeout = {round(limit_s * 1000)}")
            yield connection


@contextmanager
def _guarded(connection: sa.Connection, limit_s: float) -> Iterator[None]:
    """Let nothing but reading pass: a file open for reading could still attach, and so make, another one."""
    driver: Any = connection.connection.driver_connection
    deadline = time.monotonic() + limit_s
    driver.set_authorizer(_authorize)
    driver.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS_BETWEEN_LOOKS)
    try:
        yield
    finally:
        driver.set_progress_handler(None, 0)
        driver.set_authorizer(None)


def _authorize(action: int, _first: str | None, second: str | None, *_: object) -> int:
    is_loading = action == sqlite3.SQLITE_FUNCTION and second == "load_extension"
    return sqlite3.SQLITE_OK if action in _READING and not is_loading else sqlite3.SQLITE_DENY


def _is_out_of_time(cause: BaseException | None) -> bool:
    if not isinstance(cause, sa.exc.DBAPIError):
        return False
    code = getattr(cause.orig, "sqlite_errorcode", None)
    return code == sqlite3.SQLITE_INTERRUPT or getattr(cause.orig, "sqlstate", None) == _CANCELLED


def _reason(cause: sa.exc.DBAPIError) -> str:
    said = str(cause.orig).strip().partition("\n")[0]
    return (
        "only one SELECT, and only reading, is allowed" if said in ("not authorized", "authorization denied") else said
    )
