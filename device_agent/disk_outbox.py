"""The outbox on disk: frames before every answer, SQLite behind them.

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
from typing import TYPE_CHECKING, Self

from common.errors import DamagedError, OverloadedError, StoreError
from common.store.frames import MAX_FRAME_BYTES, Frames
from common.store.promises import (
    Accepted,
    Finished,
    Forgotten,
    Promised,
    Refused,
    Step,
    decode_steps,
    encode_step,
)
from device_agent.outbox import NOTHING, Release, Sync

if TYPE_CHECKING:
    from common.store.outbox import OutboxFile

_LOGGER = logging.getLogger(__name__)
_RETRY_S = 0.5
_LINGER_S = 0.1  # where nobody waits for the sync, so that one does for many, and few disturb a request
_STOP_LIMIT_S = 5.0
_FORGET_AT_ONCE = 512


class DiskOutbox:
    """Appends in the caller's thread; one thread of its own syncs, and moves what has gathered into SQLite."""

    def __init__(self, path: Path, *, sync: Sync, max_remembered: int, on_crash: Callable[[], None]) -> None:
        self.counters: Counter[str] = Counter()
        self.contents = NOTHING
        self._path = path
        self._sync_on = sync
        self._max_remembered = max_remembered
        self._on_crash = on_crash
        self._stack = ExitStack()
        self._file_stack = ExitStack()  # within the other
        self._lock = threading.Lock()  # of the frames and the fields below
        self._has_work = threading.Condition(self._lock)
        self._file: OutboxFile | None = None  # used under its own lock
        self._file_lock = threading.Lock()
        self._frames: Frames | None = None
        self._steps: list[Step] = []  # in the frames that are appended to
        self._moving: list[Step] = []  # in the other frames, on their way into SQLite
        self._written = 0  # steps
        self._synced = 0  # of them, on disk
        self._accepted: dict[str, int] = {}  # how far the sync must be for a request's answer to go
        self._held: deque[tuple[int, Release]] = deque()  # answers that wait for the sync
        self._unwritten: deque[Step] = deque()  # what found no room, oldest first
        self._forgotten: list[str] = []  # receipted, and not yet written down
        self._trouble = ""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="outbox-sync")

    def __enter__(self) -> Self:
        """Open the file, put in it what a former process wrote last, and read what waits.

        Raises:
            StoreError: It cannot be opened, or another process holds it.
        """
        self._stack.enter_context(self._file_stack)
        self._file = self._open_file()
        self._frames = self._stack.enter_context(Frames(self._path))
        if leftover := self._frames.leftover():
            self._file.apply(decode_steps(leftover))
            self._file.sync()
        self._frames.clear()
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
            self._file = self._frames = None
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
                is_written = self._append(Accepted(promised), is_begin=True)
            except StoreError as exc:
                raise OverloadedError(f"new requests cannot be kept: {exc}") from exc
            if not is_written:
                self._has_work.notify()
                raise OverloadedError(f"new requests cannot be kept: {self._path} is behind; ask again")
            self._accepted[promised.request_id] = self._written

    def finish(self, promised: Promised, record: bytes, release: Release) -> None:
        """Write a record down; the answer goes now, or once its request or its record is on disk, as configured."""
        step = Finished(promised.request_id, promised.input_id, promised.created_at, promised.deadline, record)
        with self._lock:
            self._write(step)
            needed = self._needed(promised.request_id)
            if needed > self._synced and not self._trouble and not self._stopping.is_set():
                self._held.append((needed, release))
                return
        release()

    def forget(self, request_ids: Sequence[str]) -> None:
        """Write down soon that the recorder has these; one forgotten too late is only sent again, and ignored."""
        with self._lock:
            self._forgotten.extend(request_ids)
            if self._is_much_forgotten():
                self._has_work.notify()

    def refuse(self, request_id: str, reason: str) -> None:
        """Write down that the recorder will not have this."""
        with self._lock:
            self._write(Refused(request_id, reason))

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

    def _write(self, step: Step) -> None:
        """Write, or keep for later: what was promised goes on in memory while there is no room."""
        try:
            is_written = not self._unwritten and self._append(step)  # the order of steps is that of their rows
        except StoreError as exc:
            is_written = False
            self._worry(exc)
        if not is_written:
            self._unwritten.append(step)
            self._has_work.notify()

    def _append(self, step: Step, *, is_begin: bool = False) -> bool:
        if self._frames is None:
            raise StoreError(f"{self._path}: the outbox is closed")
        payload = encode_step(step)
        if len(payload) > MAX_FRAME_BYTES:  # a whole book goes straight into SQLite, and so does its record
            self._apply([step])
        elif self._frames.append(payload, is_begin=is_begin):
            self._steps.append(step)
        else:
            return False
        self._written += 1
        self._has_work.notify()
        return True

    def _apply(self, steps: Sequence[Step]) -> None:
        with self._file_lock:
            if self._file is None:
                raise StoreError(f"{self._path}: the outbox is closed")
            try:
                self._file.apply(steps)
            except DamagedError:
                self._file_stack.close()
                self._file = self._open_file()  # an empty one; what this process still needs, it has in memory
                self._file.apply(steps)
            self._file.sync()

    def _open_file(self) -> "OutboxFile":
        from common.store.outbox import outbox_file  # noqa: PLC0415 - SQLAlchemy is a third of a device's start

        return self._file_stack.enter_context(outbox_file(self._path, max_remembered=self._max_remembered))

    def _worry(self, exc: StoreError) -> None:
        self.counters["outbox_failures"] += 1
        if not self._trouble:
            _LOGGER.error("%s; new requests are refused until it can be written", exc)
        self._trouble = str(exc)
        self._has_work.notify()

    def _run(self) -> None:
        try:
            while self._wait_for_work():
                self._work()
            self._move(is_last=True)
        except StoreError as exc:
            _LOGGER.error("%s: the next process moves %d steps: %s", self._path, len(self._moving), exc)  # noqa: TRY400
        except Exception:
            _LOGGER.exception("the outbox's thread died; this process stops")
            self._on_crash()
        finally:
            self._let_go(is_all=True)

    def _wait_for_work(self) -> bool:
        with self._lock:
            while not (self._written > self._synced or self._is_much_forgotten() or self._unwritten or self._trouble):
                if self._stopping.is_set():
                    return False
                self._has_work.wait()
            return not (self._stopping.is_set() and self._trouble)

    def _is_much_forgotten(self) -> bool:
        """Say whether receipts are worth a sync of their own; a few wait for the next one."""
        return len(self._forgotten) >= (1 if self._stopping.is_set() else _FORGET_AT_ONCE)

    def _work(self) -> None:
        if self._sync_on == "written":
            self._stopping.wait(_LINGER_S)
        with self._lock:
            self._forget_some()
            goal, frames = self._written, self._frames
        if frames is None:
            raise StoreError(f"{self._path}: the outbox is closed")
        try:
            if not self._trouble:
                frames.sync()
                self._synced = goal
                self._let_go()
            if self._trouble or self._moving or self._unwritten or frames.is_filling:
                self._move()
                self._catch_up()
        except StoreError as exc:
            with self._lock:
                self._worry(exc)
            self._let_go(is_all=True)  # waiting longer than this would break the deadline, not keep the promise
            self._stopping.wait(_RETRY_S)  # the disk does not tell when there is room again

    def _forget_some(self) -> None:
        while self._forgotten and not self._unwritten:
            some = self._forgotten[:_FORGET_AT_ONCE]
            if not self._append(Forgotten(tuple(some))):
                return
            del self._forgotten[: len(some)]

    def _move(self, *, is_last: bool = False) -> None:
        """Put into SQLite what the frames hold, and empty them; appending goes on in the other ones meanwhile."""
        for _ in range(2 if is_last and self._moving else 1):
            with self._lock:
                frames = self._frames
                if frames is None:
                    return
                if not self._moving:
                    self._moving, self._steps = self._steps, []
                    frames.switch()
            self._apply(self._moving)
            frames.empty_other()
            self._moving = []

    def _catch_up(self) -> None:
        """Write what found no room before."""
        with self._lock:
            while self._unwritten:
                if not self._append(self._unwritten[0]):
                    return  # the next round makes room
                self._unwritten.popleft()
            if self._trouble:
                _LOGGER.warning("%s can be written again", self._path)
                self._trouble = ""

    def _let_go(self, *, is_all: bool = False) -> None:
        ready: list[Release] = []
        with self._lock:
            while self._held and (is_all or self._held[0][0] <= self._synced):
                ready.append(self._held.popleft()[1])
        for release in ready:
            release()
