"""A thread that handles what is queued, in batches that never wait to fill."""

import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from common.errors import CrashError
from common.routing.selection import Profile
from common.service.backlog import Backlog, InOrder
from common.service.lifecycle import Stopping
from common.service.telemetry.telemetry import Telemetry
from common.transport.contract import Delivery, Inbox

_LOGGER = logging.getLogger(__name__)
_BELIEVED_S = 1.0


class Handler(Protocol):
    """What is done with the deliveries that were waiting together."""

    counters: Counter[str]

    def handle(self, deliveries: list[Delivery]) -> None:
        """Answer, escalate or refuse each of them."""
        ...


class Runner:
    """Runs a handler over an inbox on one named thread; a crash asks the process to stop."""

    def __init__(
        self,
        name: str,
        inbox: Inbox,
        handler: Handler,
        stopping: Stopping,
        *,
        max_batch: int = 16,
        backlog: Backlog | None = None,
        quickest_ms: Callable[[], float] = lambda: math.inf,
    ) -> None:
        self._inbox = inbox
        self._handler = handler
        self._stopping = stopping
        self._max_batch = max_batch
        self._backlog: Backlog = InOrder() if backlog is None else backlog  # an empty backlog is false
        self._quickest_ms = quickest_ms  # of the handler's ways to do what one delivery asks for
        self._busy_since: float | None = None  # time.monotonic()
        self._profile = Profile()  # of handling a delivery, as a share of those that were handled with it
        self._measured_at = -math.inf  # monotonic seconds
        self._thread = threading.Thread(target=self._run, name=name)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._inbox.close()
        self._thread.join()

    def tell_saturation(self, tell: Callable[[], None]) -> None:
        """Call ``tell`` on this thread when too much begins to wait, and when it is over."""
        self._backlog.on_saturation = tell

    def observe(self, telemetry: Telemetry) -> None:
        """Let the process tell of this thread: what its handler counts, what waits, and whether it is hung."""
        telemetry.watch(
            self._thread.name,
            counters=lambda: {**self._handler.counters, **self._backlog.counters},
            gauges=lambda: {"inbox_messages": float(len(self._inbox) + len(self._backlog))},
            busy_s=self._busy_s,
        )

    def _busy_s(self) -> float:
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    def _expected_ms(self) -> float:
        """Give how long the next batch will take; a measurement from a while ago counts for nothing.

        Else one stall longer than every budget would have all requests dropped as late, and nothing measured again.
        """
        if time.monotonic() - self._measured_at > _BELIEVED_S:
            return 0.0
        together = min(len(self._backlog), self._max_batch)
        return together * min(self._profile.bound_ms(), self._quickest_ms())

    def _next_batch(self) -> list[Delivery] | None:
        """Choose among all that waits; None when the inbox is closed and all is done."""
        while True:
            patience_s = 0.0 if len(self._backlog) else None
            come = self._inbox.get_batch(self._backlog.max_waiting, timeout=patience_s)
            if come is None and not len(self._backlog):
                return None
            if come:
                self._backlog.add(come)
            self._backlog.expected_ms = self._expected_ms()
            if batch := self._backlog.take(self._max_batch):
                return batch

    def _run(self) -> None:
        try:
            while (deliveries := self._next_batch()) is not None:
                started = self._busy_since = time.monotonic()
                self._handler.handle(deliveries)
                self._busy_since = None
                self._measured_at = time.monotonic()
                self._profile = self._profile.updated((self._measured_at - started) * 1000 / len(deliveries))
        except Exception as exc:
            _LOGGER.exception("the %s thread died; this process stops", self._thread.name)
            self._stopping(CrashError(f"the {self._thread.name} thread died: {exc}"))
