"""What is in quarantine, for the people who look at it and let it out."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from common.errors import StoreError
from common.store.quarantine import connect


class Poison(msgspec.Struct, frozen=True, kw_only=True):
    """A message in quarantine."""

    id: str
    device_id: str | None
    request_id: str | None
    topic: str
    reason: str
    num_bytes: int
    body: bytes
    first_at: float
    last_at: float
    times: int


def read_quarantine(path: Path) -> list[Poison]:
    """Give what is in quarantine, newest first.

    Raises:
        StoreError: There is no such file, or it is none.
    """
    with _existing(path) as database:
        rows = database.execute("SELECT * FROM poison ORDER BY last_at DESC, rowid DESC").fetchall()
    return [Poison(**dict(zip(Poison.__struct_fields__, row, strict=True))) for row in rows]


def release(path: Path, poison_id: str | None) -> int:
    """Let one message out of quarantine, or all; give how many.

    Raises:
        StoreError: There is no such file, or it is none.
    """
    with _existing(path) as database:
        count = database.execute("DELETE FROM poison WHERE id = coalesce(?, id)", (poison_id,)).rowcount
        return max(0, count)


@contextmanager
def _existing(path: Path) -> Iterator[sqlite3.Connection]:
    if not path.is_file():
        raise StoreError(f"{path}: there is no such quarantine; a node makes it where worker.quarantine_file says")
    database = connect(path)
    try:
        yield database
    except sqlite3.Error as exc:
        raise StoreError(f"{path}: {exc}; is it a quarantine?") from exc
    finally:
        database.close()
