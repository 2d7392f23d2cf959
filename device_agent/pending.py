"""Requests that wait for another tier; each leaves the table exactly once."""

import heapq
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field

from common.engine.entrance import Entered
from common.engine.pipeline import Exited
from common.service.telemetry.tracing import NOWHERE, Place
from common.store.promises import Promised
from common.types import Answer, Hop
from common.wire.messages import HiddenStates
from device_agent.model import DeviceModel


@dataclass(slots=True, kw_only=True)
class Pending:
    """An accepted request and what is needed to send it again or to answer it here."""

    promised: Promised
    entered: Entered
    model: DeviceModel  # that it began with, whatever answers later ones
    accepted_at: float  # monotonic seconds
    deadline: float  # monotonic seconds
    place: Place = NOWHERE  # in a trace
    future: Future[Answer] = field(default_factory=Future)
    local: Exited | None = None  # the device's own exit, where it has run
    hops: tuple[Hop, ...] = ()  # the device's own part
    topic: str = ""
    message: HiddenStates | None = None  # what left, or will leave, for another tier
    attempts: int = 0
    sent_bytes: int = 0
    computed_at: float = 0.0  # monotonic seconds, when the device's own layers began
    left_at: float = 0.0  # monotonic seconds, of the first attempt
    sent_at: float = 0.0  # monotonic seconds, of the last attempt
    retry_at: float = 0.0  # monotonic seconds
    is_shadowed: bool = False  # the device's own exit has been asked for
    fallback: str = ""  # why the device's own exit is the answer, once it is
    failure: str = ""  # why the device's own exit cannot answer
    is_signature_refused: bool = False  # an outcome came whose signature was missing or wrong

    @property
    def request_id(self) -> str:
        """The request's id."""
        return self.promised.request_id

    @property
    def text(self) -> str:
        """The text, and the second one behind a tab."""
        pair = self.promised.pair
        return self.promised.text if pair is None else f"{self.promised.text}\t{pair}"

    def __post_init__(self) -> None:
        self.future.set_running_or_notify_cancel()  # what is accepted cannot be cancelled


class PendingRequests:
    """The table and its timers; safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: dict[str, Pending] = {}
        self._timers: list[tuple[float, str]] = []
        self._is_empty = threading.Condition(self._lock)

    def __len__(self) -> int:
        return len(self._requests)

    def add(self, pending: Pending, wake_at: float) -> bool:
        """Hold a request, and look at it again at ``wake_at`` (monotonic seconds); say whether no timer is earlier."""
        with self._lock:
            self._requests[pending.request_id] = pending
            heapq.heappush(self._timers, (wake_at, pending.request_id))
            return self._timers[0] == (wake_at, pending.request_id)

    def take(self, request_id: str) -> Pending | None:
        """Hand a request over for settling; a second taker gets nothing."""
        with self._lock:
            pending = self._requests.pop(request_id, None)
            if not self._requests:
                self._is_empty.notify_all()
            return pending

    def get(self, request_id: str) -> Pending | None:
        """Look at a request and leave it in the table."""
        with self._lock:
            return self._requests.get(request_id)

    def take_all(self) -> list[Pending]:
        """Hand over everything."""
        with self._lock:
            taken = list(self._requests.values())
            self._requests.clear()
            self._is_empty.notify_all()
            return taken

    def due(self, now: float) -> list[Pending]:
        """Give the requests whose timers have run out; they stay in the table."""
        found = []
        with self._lock:
            while self._timers and self._timers[0][0] <= now:
                _, request_id = heapq.heappop(self._timers)
                if pending := self._requests.get(request_id):
                    found.append(pending)
        return found

    def wake(self, request_id: str, at: float) -> None:
        """Set a request's next timer."""
        with self._lock:
            heapq.heappush(self._timers, (at, request_id))

    def next_timer(self) -> float | None:
        """Tell when the next timer runs out, in monotonic seconds."""
        with self._lock:
            return self._timers[0][0] if self._timers else None

    def wait_until_empty(self, limit_s: float) -> bool:
        """Wait for every request to be settled; say whether they were."""
        with self._lock:
            return self._is_empty.wait_for(lambda: not self._requests, limit_s)
