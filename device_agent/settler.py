"""The settler: sends requests out, sends them again, and gives each exactly one answer."""

import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Self

import msgspec

from common.config.settings import DeviceLimits, DeviceLog
from common.engine.pipeline import Exited
from common.errors import TransportError, WireError
from common.transport.contract import Delivery, Inbox, Transport
from common.types import Answer, Reason, Record
from common.wire import codec
from common.wire.messages import Failure, Outcome, Receipt
from device_agent.answers import AnswerMaker
from device_agent.journal import Journal
from device_agent.pending import Pending, PendingRequests

_LOGGER = logging.getLogger(__name__)
_MAX_BATCH = 64


class Settler:
    """One thread that takes outcomes in and watches the clock; ``settle`` may be called from any thread."""

    def __init__(
        self,
        inbox: Inbox,
        transport: Transport,
        journal: Journal,
        answers: AnswerMaker,
        *,
        run_here: Callable[[Pending], Exited],
        limits: DeviceLimits,
        log: DeviceLog,
        on_crash: Callable[[], None],
    ) -> None:
        self.counters: Counter[str] = Counter()
        self.answers = answers
        self._inbox = inbox
        self._transport = transport
        self._journal = journal
        self._run_here = run_here
        self._limits = limits
        self._log = log
        self._on_crash = on_crash
        self._pending = PendingRequests()
        self._here_ms = 0.0  # the longest that the device's own exit has taken
        self._thread = threading.Thread(target=self._run, name="settler")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._pending.wait_until_empty(self._limits.budget_ms / 1000 + 1):
            _LOGGER.error("%d requests were still waiting when the device stopped", len(self._pending))
        if unrecorded := self._journal.wait_until_settled(self._log.drain_s):
            _LOGGER.error("%d finished requests never got the recorder's receipt; is an edge running?", unrecorded)
        self._inbox.close()
        self._thread.join()

    @property
    def is_full(self) -> bool:
        """Whether too many finished requests wait for the recorder."""
        return self._journal.is_full

    def dispatch(self, pending: Pending) -> None:
        """Send a request to another tier and wait for its outcome."""
        pending.attempts = 1
        self._pending.add(pending, self._next_look(pending))  # before it leaves: its outcome may be quick
        self._send(pending)

    def settle(self, pending: Pending, answer: Answer) -> None:
        """Answer the caller and write the record; the request is over."""
        self.counters[f"answered_{answer.reason}"] += 1
        self._journal.append(
            Record(
                answer=answer,
                created_at=pending.created_at,
                text=pending.text if self._log.keep_text else None,
                true_label=pending.true_label,
            )
        )
        pending.future.set_result(answer)

    def _run(self) -> None:
        try:
            while (deliveries := self._inbox.get_batch(_MAX_BATCH, timeout=self._patience_s())) is not None:
                for delivery in deliveries:
                    self._receive(delivery)
                for pending in self._pending.due(time.monotonic()):
                    self._attend(pending)
                self._journal.resend()
        except Exception:
            _LOGGER.exception("the settler died; this process stops")
            self._on_crash()

    def _patience_s(self) -> float:
        """Give the time to the next timer; a timer set meanwhile is never due sooner than the shortest wait."""
        shortest_s = min(self._limits.retry_ms * 0.8, self._limits.budget_ms) / 1000
        timer = self._pending.next_timer()
        return shortest_s if timer is None else max(0.0, min(shortest_s, timer - time.monotonic()))

    def _receive(self, delivery: Delivery) -> None:
        try:
            message = codec.decode(delivery.payload)
        except WireError as exc:
            self.counters["refused"] += 1
            _LOGGER.warning("refused %d bytes on %s: %s", len(delivery.payload), delivery.topic, exc)
            return
        match message:
            case Receipt():
                self._journal.receive(message)
            case Outcome() | Failure():
                self._conclude(message)
            case _:
                self.counters["refused"] += 1
                _LOGGER.warning("a %s is nothing for a device; refused", type(message).__name__)

    def _conclude(self, message: Outcome | Failure) -> None:
        pending = self._pending.take(message.request_id)
        if pending is None:
            self.counters["late_or_duplicate"] += 1
            return
        match message:
            case Outcome():
                self.settle(pending, self._answer_from(pending, message))
            case Failure():
                _LOGGER.warning("%s: %s refused it: %s", pending.request_id, message.node, message.detail)
                self._degrade(pending, f"{message.node}: {message.code}: {message.detail}")

    def _answer_from(self, pending: Pending, outcome: Outcome) -> Answer:
        try:
            return self.answers.from_outcome(pending, outcome)
        except IndexError:
            return self._own_answer(pending, f"outcome has {len(outcome.logits)} classes")

    def _attend(self, pending: Pending) -> None:
        if time.monotonic() >= pending.deadline - self._here_ms / 1000:
            if self._pending.take(pending.request_id):
                self._degrade(pending, f"no outcome within {self._limits.budget_ms:.0f} ms")
            return
        pending.attempts += 1
        self.counters["retried"] += 1
        self._send(pending)
        self._pending.wake(pending.request_id, self._next_look(pending))

    def _degrade(self, pending: Pending, detail: str) -> None:
        self.settle(pending, self._own_answer(pending, detail))

    def _own_answer(self, pending: Pending, detail: str) -> Answer:
        if pending.local is None:
            started = time.monotonic()
            try:
                pending.local = self._run_here(pending)
            except Exception as exc:  # the request must end all the same
                _LOGGER.exception("%s: inference failed on the device", pending.request_id)
                return self.answers.failed(pending, f"{detail}; and here: {exc}")
            self._here_ms = max(self._here_ms, (time.monotonic() - started) * 1000)
        return self.answers.from_exit(pending, pending.local, Reason.DEGRADED, detail)

    def _next_look(self, pending: Pending) -> float:
        """Wait twice as long after every attempt, with jitter, but look once more just before the deadline."""
        wait_ms: float = self._limits.retry_ms * 2 ** (pending.attempts - 1) * random.uniform(0.8, 1.2)  # noqa: S311 - jitter, no secret
        return min(time.monotonic() + wait_ms / 1000, pending.deadline - self._here_ms / 1000)

    def _send(self, pending: Pending) -> None:
        if pending.message is None:
            raise AssertionError("only what is to leave is dispatched")
        left_s = max(0.0, pending.deadline - time.monotonic())
        message = msgspec.structs.replace(pending.message, budget_ms=left_s * 1000, attempt=pending.attempts)
        payload = codec.encode(message)
        pending.sent_bytes += len(payload)
        try:
            self._transport.publish(pending.topic, payload, expiry_s=max(1.0, left_s))
        except TransportError as exc:
            pending.sent_bytes -= len(payload)
            self.counters["unsent"] += 1
            _LOGGER.debug("%s: not sent: %s", pending.request_id, exc)
