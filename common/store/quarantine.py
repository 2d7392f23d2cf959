"""Messages that broke something here, kept for people to look at, and known so that they do no harm again.

Two kinds: bytes that cannot be read, and requests on which computing failed twice or the process died twice.
"""

import hashlib
import logging
import os
import sqlite3
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import msgspec

from common.errors import StoreError

_LOGGER = logging.getLogger(__name__)
_MAX_BODY_BYTES = 65_536  # kept of a message
_MAX_PER_SECOND = 20  # written; beyond, strangers who send rubbish are only counted
_MAX_STRIKES = 1024  # requests that failed once
_STRIKES = 2
_BUSY_TIMEOUT_S = 1.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS poison (
    id         TEXT NOT NULL PRIMARY KEY,  -- 16 hex digits of the body's hash, or of the request's name
    device_id  TEXT,                       -- null where the bytes name no request
    request_id TEXT,
    topic      TEXT NOT NULL,
    reason     TEXT NOT NULL,
    num_bytes  INTEGER NOT NULL,
    body       BLOB NOT NULL,              -- cut at 64 KiB; empty where the process died with it
    first_at   REAL NOT NULL,              -- seconds since the epoch
    last_at    REAL NOT NULL,
    times      INTEGER NOT NULL            -- it came
) STRICT;
CREATE TABLE IF NOT EXISTS strike (
    device_id  TEXT NOT NULL,
    request_id TEXT NOT NULL,
    strikes    INTEGER NOT NULL,
    PRIMARY KEY (device_id, request_id)
) STRICT;
"""


class Name(NamedTuple):
    """What names a request."""

    device_id: str
    request_id: str


class Quarantine:
    """Bounded, oldest out first, and apart for each kind; any thread may call.

    Without a path it lives in memory. Trouble with its disk is told and stops nobody.
    """

    def __init__(self, path: Path | None, *, most: int) -> None:
        self.counters: Counter[str] = Counter()
        self._path = path
        self._most = most
        self._lock = threading.Lock()
        self._database = connect(None)
        self._held: set[Name] = set()
        self._strikes: OrderedDict[Name, int] = OrderedDict()
        self._second = 0  # of the monotonic clock
        self._written = 0  # in it
        self._in_hand = -1  # file descriptor

    def __enter__(self) -> Self:
        """Open the file, and count what a former process died with.

        Raises:
            StoreError: It cannot be opened.
        """
        if self._path is not None:
            self._database.close()
            self._database = _open(self._path)
            rows = self._database.execute("SELECT device_id, request_id FROM poison WHERE request_id IS NOT NULL")
            self._held = {Name(*row) for row in rows}
            rows = self._database.execute("SELECT device_id, request_id, strikes FROM strike ORDER BY rowid")
            self._strikes = OrderedDict((Name(device, request), strikes) for device, request, strikes in rows)
            self._take_over(Path(f"{self._path}.in-hand"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._in_hand >= 0:
            os.close(self._in_hand)
            self._in_hand = -1
        self._database.close()

    def put_bytes(self, topic: str, payload: bytes, reason: str) -> None:
        """Keep bytes that cannot be read."""
        with self._lock:
            self._keep(None, topic, payload, reason)

    def strike(self, name: Name, topic: str, payload: bytes, reason: str) -> None:
        """Note that computing a request failed; the second time it is held."""
        with self._lock:
            self._strike(name, topic, payload, reason)

    def holds(self, name: Name) -> bool:
        """Say whether a request is in quarantine, and count that it came again."""
        if name not in self._held:
            return False
        with self._lock, self._telling():
            again = "UPDATE poison SET times = times + 1, last_at = ? WHERE device_id = ? AND request_id = ?"
            if self._database.execute(again, (time.time(), *name)).rowcount == 0:  # released by 'log quarantine clear'
                self._held.discard(name)
                return False
        self.counters["quarantined_again"] += 1
        return True

    def suspects(self, name: Name) -> bool:
        """Say whether computing a request failed before, so that no other should run beside it."""
        return name in self._strikes

    @contextmanager
    def in_hand(self, names: Sequence[Name]) -> Iterator[None]:
        """Leave word of what is being computed, for the process that comes after a death."""
        if self._in_hand < 0:
            yield
            return
        word = msgspec.json.encode(names)
        with suppress(OSError):
            os.pwrite(self._in_hand, len(word).to_bytes(4, "big") + word, 0)
        yield
        with suppress(OSError):
            os.pwrite(self._in_hand, bytes(4), 0)

    def _take_over(self, path: Path) -> None:
        try:
            self._in_hand = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            said = os.pread(self._in_hand, 1 << 20, 0)
            os.pwrite(self._in_hand, bytes(4), 0)
        except OSError as exc:
            raise StoreError(f"{path}: cannot be written: {exc.strerror}; name another worker.quarantine_file") from exc
        with suppress(msgspec.DecodeError):  # torn by the death itself
            for name in msgspec.json.decode(said[4 : 4 + int.from_bytes(said[:4], "big")] or b"[]", type=list[Name]):
                self._strike(name, "", b"", "the process died while it computed this")

    def _strike(self, name: Name, topic: str, payload: bytes, reason: str) -> None:
        strikes = self._strikes.pop(name, 0) + 1
        if strikes >= _STRIKES:
            self._held.add(name)
            self._keep(name, topic, payload, reason)
        else:
            self._strikes[name] = strikes
            while len(self._strikes) > _MAX_STRIKES:
                self._strikes.popitem(last=False)
        with self._telling():
            self._database.execute("DELETE FROM strike WHERE device_id = ? AND request_id = ?", name)
            if strikes < _STRIKES:
                self._database.execute("INSERT INTO strike VALUES (?, ?, ?)", (*name, strikes))
            prune = "DELETE FROM strike WHERE rowid <= (SELECT max(rowid) FROM strike) - ?"
            self._database.execute(prune, (_MAX_STRIKES,))

    def _keep(self, name: Name | None, topic: str, payload: bytes, reason: str) -> None:
        self.counters["quarantined"] += 1
        second = int(time.monotonic())
        self._written = self._written + 1 if second == self._second else 1
        self._second = second
        if self._written > _MAX_PER_SECOND and name is None:
            return
        named = payload if name is None else "\0".join(name).encode()
        digest, now = hashlib.sha256(named).hexdigest()[:16], time.time()
        body = payload[:_MAX_BODY_BYTES]
        row = (digest, *(name or (None, None)), topic[:200], reason[:400], len(payload), body, now, now)
        with self._telling():
            self._database.execute(_PUT, row)
            is_same_kind = "request_id IS NULL" if name is None else "request_id IS NOT NULL"
            self._database.execute(_PRUNE.format(kind=is_same_kind), (self._most,))

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as exc:
            self.counters["quarantine_failures"] += 1
            _LOGGER.warning("%s: the quarantine cannot be written: %s", self._path, exc)


_PUT = (
    "INSERT INTO poison VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 1) "
    "ON CONFLICT (id) DO UPDATE SET times = times + 1, last_at = excluded.last_at"
)
_PRUNE = (
    "DELETE FROM poison WHERE {kind} AND rowid NOT IN "
    "(SELECT rowid FROM poison WHERE {kind} ORDER BY last_at DESC, rowid DESC LIMIT ?)"
)


def _open(path: Path) -> sqlite3.Connection:
    try:
        database = connect(path)
        database.executescript(_SCHEMA)
    except sqlite3.OperationalError as exc:
        raise StoreError(f"{path}: {exc}; name another worker.quarantine_file") from exc
    except sqlite3.DatabaseError as exc:
        aside = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%dT%H%M%S')}")
        path.rename(aside)
        _LOGGER.error("%s is damaged (%s); it is kept as %s and an empty quarantine begun", path, exc, aside)  # noqa: TRY400 - the cause is said
        database = connect(path)
        database.executescript(_SCHEMA)
    return database


def connect(path: Path | None) -> sqlite3.Connection:
    """Open a quarantine's database; one without a path lives in memory."""
    database = sqlite3.connect(
        ":memory:" if path is None else path,
        isolation_level=None,
        check_same_thread=False,
        timeout=_BUSY_TIMEOUT_S,
    )
    if path is None:
        database.executescript(_SCHEMA)
    else:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
    return database
