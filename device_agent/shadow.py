"""The device's own exit, run beside a request that is out, so that an answer exists when the time is up.

After MDInference (Ogden & Guo 2020, section on duplication): the far answer if it has come, else the near one.
"""

import logging
import queue
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from common.engine.pipeline import Exited
from device_agent.pending import Pending

_LOGGER = logging.getLogger(__name__)


class Shadow:
    """One thread that runs the device's layers for requests that may come to need them, in the order asked."""

    def __init__(self, run_here: Callable[[Pending], Exited], then: Callable[[Pending], None]) -> None:
        self._run_here = run_here
        self._then = then
        self._queue: queue.SimpleQueue[Pending | None] = queue.SimpleQueue()  # bounded by device.max_in_flight
        self._thread = threading.Thread(target=self._run, name="shadow")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._queue.put(None)
        self._thread.join()

    def ask(self, pending: Pending) -> None:
        """Run the device's layers for a request soon, unless it is over by then."""
        pending.is_shadowed = True
        self._queue.put(pending)

    def _run(self) -> None:
        while (pending := self._queue.get()) is not None:
            if pending.future.done():
                continue
            try:
                pending.local = self._run_here(pending)
            except Exception as exc:
                _LOGGER.exception("%s: inference failed on the device", pending.request_id)
                pending.failure = f"inference failed on the device: {exc}"
            self._then(pending)
