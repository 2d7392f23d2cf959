"""Where a device keeps what it has promised: in memory, or on disk for the process that comes after it.

The order that must not be broken (docs/decisions/0006): a request is written before it leaves the device, its
record before its answer is let go. What is written survives a kill; what is synced, a power cut too.
"""

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Protocol, Self

from common.errors import OverloadedError, StoreError
from common.store.promises import Contents, Promised

if TYPE_CHECKING:
    from common.store.outbox import OutboxFile

_LOGGER = logging.getLogger(__name__)
_RETRY_S = 0.5
_LINGER_S = 0.05  # where nobody waits for the sync, so that one does for many, and few disturb a request
_STOP_LIMIT_S = 5.0
_FORGET_AT_ONCE = 32
NOTHING = Contents(unanswered=(), unrecorded=(), recorded=())

Sync = Literal["written", "accepted", "answered"]
Release = Callable[[], None]


class Outbox(Protocol):
    """Keeps promises; any thread may call."""

    counters: Counter[str]
    contents: Contents  # what a former process left

    def check(self) -> None:
        """Say whether a request could be kept.

        Raises:
            OverloadedError: It could not, so it must not be accepted.
        """

    def accept(self, promised: Promised) -> None:
        """Keep a request that is about to leave the device.

        Raises:
            OverloadedError: It cannot be kept.
        """

    def finish(self, promised: Promised, record: bytes, release: Release) -> None:
        """Keep the record in the request's place; ``release`` runs once the answer may be let go."""

    def forget(self, request_ids: Sequence[str]) -> None:
        """Drop what the recorder has."""

    def refuse(self, request_id: str, reason: str) -> None:
        """Set aside a record that the recorder will not take."""


class MemoryOutbox:
    """Keeps nothing beyond the process."""

    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()
        self.contents = NOTHING

    def check(self) -> None:
        """Find nothing in the way."""

    def accept(self, promised: Promised) -> None:
        """Keep nothing: the request lives as long as the process."""

    def finish(self, promised: Promised, record: bytes, release: Release) -> None:  # noqa: ARG002 - the seam's signature
        """Let the answer go at once."""
        release()

    def forget(self, request_ids: Sequence[str]) -> None:
        """Keep nothing."""

    def refuse(self, request_id: str, reason: str) -> None:
        """Keep nothing."""


class DiskOutbox:
    """Writes in the caller's thread; one thread of its own syncs, as many promises at once as have gathered."""

    def __init__(self, path: Path, *, sync: Sync, max_remembered: int, on_crash: Callable[[], None]) -> None:
        self.counters: Counter[str] = Counter()
        self.contents = NOTHING
        self._path = path
        self._sync_on = sync
        self._max_remembered = max_remembered
        self._on_crash = on_crash
        self._stack = ExitStack()
        self._lock = threading.Lock()  # the file's, and that of the fields below
        self._has_work = threading.Condition(self._lock)
        self._file: OutboxFile | None = None
        self._written = 0  # statements written
        self._synced = 0  # of them, on disk
        self._accepted: dict[str, int] = {}  # how far the sync must be for a request's answer to go
        self._held: deque[tuple[int, Release]] = deque()  # answers that wait for the sync
        self._unwritten: deque[Callable[[OutboxFile], None]] = deque()  # statements that the disk refused, oldest first
        self._forgotten: list[str] = []  # receipted, and not yet written down
        self._trouble = ""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="outbox-sync")

    def __enter__(self) -> Self:
        """Open the file and read what waits.

        Raises:
            StoreError: It cannot be opened, or another process holds it.
        """
        from common.store.outbox import outbox_file  # noqa: PLC0415 - SQLAlchemy is a third of a device's start

        self._file = self._stack.enter_context(outbox_file(self._path, max_remembered=self._max_remembered))
        self.contents = self._file.load()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._stopping.set()
            self._has_work.notify_all()
        self._thread.join(_STOP_LIMIT_S)
        with self._lock:
            if self._unwritten:
                _LOGGER.error(
                    "%s: %d changes could not be written: %s", self._path, len(self._unwritten), self._trouble
                )
            self._file = None
            self._stack.close()

    def check(self) -> None:
        """Refuse what could not be written down."""
        if self._trouble:
            raise OverloadedError(f"new requests cannot be kept: {self._trouble}")

    def accept(self, promised: Promised) -> None:
        """Write a request down."""
        with self._lock:
            self.check()
            try:
                self._opened().accept(promised)
            except StoreError as exc:
                self._worry(exc)
                raise OverloadedError(f"new requests cannot be kept: {exc}") from exc
            self._accepted[promised.request_id] = self._note_written()

    def finish(self, promised: Promised, record: bytes, release: Release) -> None:
        """Write a record down; the answer goes now, or once its request or its record is on disk, as configured."""
        with self._lock:
            self._write(lambda file: file.finish(promised, record))
            needed = self._needed(promised.request_id)
            if needed > self._synced and not self._trouble and not self._stopping.is_set():
                self._held.append((needed, release))
                return
        release()

    def forget(self, request_ids: Sequence[str]) -> None:
        """Write down soon that the recorder has these; one forgotten too late is only sent again, and ignored."""
        with self._lock:
            self._forgotten.extend(request_ids)
            self._has_work.notify()

    def refuse(self, request_id: str, reason: str) -> None:
        """Write down that the recorder will not have this."""
        with self._lock:
            self._write(lambda file: file.refuse(request_id, reason))

    def _needed(self, request_id: str) -> int:
        """Give how far the sync must be for this request's answer to go."""
        accepted = self._accepted.pop(request_id, self._written)
        match self._sync_on:
            case "written":
                return 0
            case "accepted":
                return accepted
            case "answered":
                return self._written

    def _opened(self) -> "OutboxFile":
        if self._file is None:
            raise StoreError(f"{self._path}: the outbox is closed")
        return self._file

    def _write(self, statement: "Callable[[OutboxFile], None]") -> None:
        """Write, or keep for later: what was promised goes on in memory while the disk is full."""
        if self._unwritten:  # the order of statements is that of their rows
            self._unwritten.append(statement)
            return
        try:
            statement(self._opened())
        except StoreError as exc:
            self._unwritten.append(statement)
            self._worry(exc)
        else:
            self._note_written()

    def _note_written(self) -> int:
        self._written += 1
        self._has_work.notify()
        return self._written

    def _worry(self, exc: StoreError) -> None:
        self.counters["outbox_failures"] += 1
        if not self._trouble:
            _LOGGER.error("%s; new requests are refused until it can be written", exc)
        self._trouble = str(exc)
        self._has_work.notify()

    def _run(self) -> None:
        try:
            while self._wait_for_work():
                self._sync_once()
        except Exception:
            _LOGGER.exception("the outbox's thread died; this process stops")
            self._on_crash()
        finally:
            self._let_go(is_all=True)

    def _wait_for_work(self) -> bool:
        with self._lock:
            while self._written == self._synced and not self._forgotten and not self._trouble:
                if self._stopping.is_set():
                    return False
                self._has_work.wait()
            return not (self._stopping.is_set() and self._trouble)

    def _sync_once(self) -> None:
        if self._sync_on == "written":
            self._stopping.wait(_LINGER_S)
        while self._forget_some():
            pass
        with self._lock:
            has_caught_up = self._catch_up()
            file, goal = self._opened(), self._written
        if not has_caught_up:
            self._let_go(is_all=True)  # waiting longer than this would break the deadline, not keep the promise
            self._stopping.wait(_RETRY_S)  # the disk does not tell when there is room again
            return
        try:
            file.sync()
        except StoreError as exc:
            with self._lock:
                self._worry(exc)
            return
        self._synced = goal
        self._let_go()

    def _forget_some(self) -> bool:
        """Write a few receipts down, so few that nobody waits long for the file; say whether there are more."""
        with self._lock:
            if self._trouble or not self._forgotten:
                return False
            some, self._forgotten = self._forgotten[:_FORGET_AT_ONCE], self._forgotten[_FORGET_AT_ONCE:]
            self._write(lambda file: file.forget(some))
            return bool(self._forgotten)

    def _catch_up(self) -> bool:
        """Write what the disk refused before; say whether nothing is left."""
        if not self._trouble:
            return True
        try:
            while self._unwritten:
                self._unwritten[0](self._opened())
                self._unwritten.popleft()
                self._written += 1
            self._opened().sync()
        except StoreError:
            return False
        _LOGGER.warning("%s can be written again", self._path)
        self._trouble = ""
        return True

    def _let_go(self, *, is_all: bool = False) -> None:
        ready: list[Release] = []
        with self._lock:
            while self._held and (is_all or self._held[0][0] <= self._synced):
                ready.append(self._held.popleft()[1])
        for release in ready:
            release()


def open_outbox(
    path: str | None, *, sync: Sync, max_remembered: int, on_crash: Callable[[], None], stack: ExitStack
) -> Outbox:
    """Give the outbox that the configuration names, closed with ``stack``."""
    if path is None:
        return MemoryOutbox()
    return stack.enter_context(DiskOutbox(Path(path), sync=sync, max_remembered=max_remembered, on_crash=on_crash))
