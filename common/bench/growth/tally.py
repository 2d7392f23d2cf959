"""What becomes of requests: one thread sends and notes, another reads what comes back."""

import threading
import time
from collections import Counter
from types import TracebackType
from typing import Self

from common.transport.contract import Delivery, Inbox
from common.wire import codec
from common.wire.messages import Failure

_PATIENCE_S = 0.1  # between two looks whether there is more to come
_AT_ONCE = 256


class Tally:
    """Counts the outcomes that come into an inbox while it is entered."""

    def __init__(self, inbox: Inbox, slots: threading.Semaphore) -> None:
        """Free a place in ``slots`` for each request that is settled."""
        self.latencies_ms: list[float] = []
        self.refused: Counter[str] = Counter()  # by the failure's code
        self.last_at = 0.0  # monotonic seconds; when the last outcome came
        self._inbox, self._slots = inbox, slots
        self._pending: dict[str, float] = {}  # monotonic seconds of arrival, by request id
        self._is_all_sent = False
        self._settled = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tally")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join()

    def expect(self, request_id: str, arrival: float) -> None:
        """Note a request before it is sent."""
        self._pending[request_id] = arrival

    def forget(self, request_id: str) -> None:
        """Take back a request that could not be sent."""
        del self._pending[request_id]
        self._slots.release()

    def wait_settled(self, limit_s: float) -> int:
        """Wait for what is still due; give how many were not answered."""
        self._is_all_sent = True
        if self._pending:
            self._settled.wait(limit_s)
        return len(self._pending)

    def _run(self) -> None:
        while not self._stopping.is_set():
            for delivery in self._inbox.get_batch(_AT_ONCE, timeout=_PATIENCE_S) or ():
                self._settle(delivery)
            if self._is_all_sent and not self._pending:
                self._settled.set()

    def _settle(self, delivery: Delivery) -> None:
        (heading,) = codec.headings(delivery.payload)
        arrival = self._pending.pop(heading.request_id, None)
        if arrival is None:
            return  # of an earlier step
        match heading.tag:
            case "O":
                self.latencies_ms.append((delivery.received_at - arrival) * 1000)
                self.last_at = time.monotonic()
            case _:
                message = codec.decode(delivery.payload)
                self.refused[message.code if isinstance(message, Failure) else heading.tag] += 1
        self._slots.release()
