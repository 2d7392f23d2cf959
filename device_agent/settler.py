"""The settler: sends requests out, sends them again, and gives each exactly one answer."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from common.config.settings import DeviceLimits, DeviceLog
from common.engine.pipeline import Exited
from common.errors import CrashError, WireError
from common.service.telemetry.vitals import Meter, NoMeter
from common.store.promises import Promised
from common.transport.contract import Delivery, Inbox, Transport
from common.types import Answer, Reason, Record, Signature
from common.wire import codec
from common.wire.messages import Failure, LogRecord, Outcome, Receipt, SignedOutcome
from device_agent.answers import AnswerMaker, storable
from device_agent.audit import Auditor, NoAudit
from device_agent.journal import Journal
from device_agent.pending import Pending, PendingRequests
from device_agent.races import Races
from device_agent.sender import Sender
from device_agent.shadow import Shadow
from device_agent.signatures import AnySignature, Signatures, Told
from device_agent.timing import Timing

_LOGGER = logging.getLogger(__name__)
_MAX_BATCH = 64
_NO_METER = NoMeter()
_NO_AUDIT = NoAudit()
_ANY_SIGNATURE = AnySignature()


class Settler:
    """One thread that takes outcomes in and watches the clock; ``settle`` may be called from any thread.

    It computes nothing and waits for nobody, so that no request's deadline depends on another request.
    """

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
        meter: Meter = _NO_METER,
        audit: Auditor = _NO_AUDIT,
        signatures: Signatures = _ANY_SIGNATURE,
    ) -> None:
        self._audit = audit
        self._signatures = signatures
        self._counts: Counter[str] = Counter()
        self.answers = answers
        self._inbox = inbox
        self._transport = transport
        self._journal = journal
        self._limits = limits
        self._log = log
        self._on_crash = on_crash
        self._meter = meter
        self._pending = PendingRequests()
        self._timing = Timing(limits)
        self._races = Races(self._amend, answers.race_here)
        self._shadow = Shadow(run_here, self._shadowed)
        self._crash: CrashError | None = None
        self._sender = Sender(transport, self._counts)
        self._thread = threading.Thread(target=self._run, name="settler")

    def __enter__(self) -> Self:
        self._shadow.__enter__()
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
        self._shadow.__exit__(kind, error, trace)

    @property
    def room(self) -> int:
        """How many requests may still be accepted before too many finished ones wait for the recorder."""
        return self._journal.room

    @property
    def counters(self) -> dict[str, int]:
        """What happened to requests, and what is on its way now."""
        return self.totals() | {name: int(count) for name, count in self.waiting().items()}

    def totals(self) -> dict[str, int]:
        """What happened to requests and records."""
        return {**self._counts, **self._journal.counters}

    def waiting(self) -> dict[str, float]:
        """What is on its way now."""
        return {"in_flight": float(len(self._pending)), "unrecorded": float(len(self._journal))}

    def wait_recorded(self, limit_s: float) -> int:
        """Wait for the recorder's receipts; tell how many records have none."""
        return self._journal.wait_until_settled(limit_s)

    def time_for_tiers_s(self, pending: Pending) -> float:
        """Tell what a request's budget leaves the tiers, as both ways through the network are the device's to count."""
        return self._sender.time_for_tiers_s(pending)

    def dispatch(self, pendings: Sequence[Pending]) -> None:
        """Send requests to other tiers and wait for their outcomes."""
        if not pendings:
            return
        for pending in pendings:
            pending.attempts = 1
            pending.left_at = time.monotonic()
            self._timing.schedule_retry(pending)
            if self._pending.add(pending, self._timing.next_look(pending)):  # before it leaves: outcomes may be quick
                self._inbox.wake()
        self._sender.send(pendings)
        if self._crash is not None:  # the settler died in between and has not seen them
            self._abandon()

    def settle(self, pending: Pending, answer: Answer) -> None:
        """Write the record, then answer the caller; the request is over."""
        self._counts[f"answered_{answer.reason}"] += 1
        self._meter.answer(answer)
        pending.model.uplink.given_up(pending.request_id)  # nothing, where its outcome has come
        record = Record(
            answer=answer,
            created_at=pending.promised.created_at,
            text=storable(pending.text) if self._log.keep_text else None,
            true_label=storable(pending.promised.true_label),
        )
        payload = codec.encode(LogRecord(record=self._races.begin(pending, record)))
        self._journal.append(pending.promised, payload, lambda: pending.future.set_result(answer))
        self._races.logged(pending.request_id)

    def settle_here(self, pending: Pending, detail: str) -> None:
        """Answer with the device's own exit, as the device's layers have already run or failed."""
        if pending.local is None:
            self.settle(pending, self.answers.failed(pending, f"{detail}; and here: {pending.failure}"))
        else:
            self.settle(pending, self.answers.from_exit(pending, pending.local, Reason.DEGRADED, detail))

    def _run(self) -> None:
        try:
            while (
                deliveries := self._inbox.get_batch(
                    _MAX_BATCH, timeout=self._timing.patience_s(self._pending.next_timer())
                )
            ) is not None:
                for delivery in deliveries:
                    self._receive(delivery)
                for pending in self._pending.due(time.monotonic()):
                    self._attend(pending)
                self._journal.resend()
        except Exception as exc:
            _LOGGER.exception("the settler died; this process stops")
            self._crash = CrashError(f"the settler thread died: {exc}")
            self._abandon()
            self._on_crash()

    def _abandon(self) -> None:
        """Let nobody wait for an answer that cannot come; an outbox on disk answers after the restart."""
        for pending in self._pending.take_all():
            pending.future.set_exception(self._crash)

    def _receive(self, delivery: Delivery) -> None:
        try:
            message = codec.decode(delivery.payload)
            told = self._signatures.read(message) if isinstance(message, Outcome | SignedOutcome) else None
        except WireError as exc:
            self._counts["refused"] += 1
            _LOGGER.warning("refused %d bytes on %s: %s", len(delivery.payload), delivery.topic, exc)
            return
        match told or message:
            case Receipt() as receipt:
                self._journal.receive(receipt)
            case Told(signature=Signature.REFUSED) as disbelieved:
                self._disbelieve(disbelieved)
            case Told(outcome=outcome, signature=signature):
                self._conclude(outcome, signature)
            case Failure() as failure:
                self._refused(failure)
            case _:
                self._counts["refused"] += 1
                _LOGGER.warning("a %s is nothing for a device; refused", type(message).__name__)

    def _disbelieve(self, told: Told) -> None:
        """Count an outcome without a good signature; its request stays open, and is sent again."""
        self._counts["refused_signature"] += 1
        _LOGGER.warning("%s: outcome refused: %s", told.outcome.request_id, told.why)
        pending = self._pending.get(told.outcome.request_id)
        if pending is not None:
            pending.is_signature_refused = True

    def _conclude(self, outcome: Outcome, signature: Signature | None) -> None:
        pending = self._pending.get(outcome.request_id)
        if pending is None:
            self._note_late(outcome)
            return
        try:
            answer = self.answers.from_outcome(pending, outcome, signature)
        except WireError as exc:
            self._fall_back(pending, f"outcome refused: {exc}")
            return
        if self._pending.take(outcome.request_id):
            self._sender.arrived(pending, outcome)
            self.settle(pending, answer)
            self._audit.consider(pending.message, outcome)
        else:
            self._note_late(outcome)  # the shadow's thread was quicker

    def _note_late(self, outcome: Outcome) -> None:
        self._counts["late_or_duplicate"] += 1
        manifest = self._races.manifest_of(outcome.request_id)
        if manifest is None:
            return
        try:
            self._races.second(outcome.request_id, self.answers.race_against(outcome, manifest))
        except WireError as exc:
            _LOGGER.warning("%s: a late outcome is refused: %s", outcome.request_id, exc)

    def _amend(self, promised: Promised, record: Record) -> None:
        self._journal.amend(promised, codec.encode(LogRecord(record=record)))

    def _refused(self, failure: Failure) -> None:
        detail = f"{failure.node}: {failure.code}: {failure.detail}"
        if failure.code == "record_refused":  # only the recorder's word ends a record, not a worker's that comes late
            self._journal.refuse(failure.request_id, detail)
            return
        pending = self._pending.get(failure.request_id)
        if pending is not None:
            _LOGGER.warning("%s: %s refused it: %.200r", pending.request_id, failure.node, failure.detail)
            self._fall_back(pending, detail)
        else:
            self._counts["late_or_duplicate"] += 1

    def _attend(self, pending: Pending) -> None:
        now = time.monotonic()
        if now >= pending.deadline:
            self._counts["deadline_missed"] += not pending.fallback
            self._fall_back(pending, f"no outcome within {self._limits.budget_ms:.0f} ms")
            return
        if self._timing.needs_shadow(pending, now):
            self._shadow.ask(pending)
        if now >= pending.retry_at:
            self._retry(pending)
        self._pending.wake(pending.request_id, self._timing.next_look(pending))

    def _retry(self, pending: Pending) -> None:
        if self._transport.is_connected or not pending.sent_bytes:  # else it still waits in the transport's outbox
            pending.attempts += 1
            self._counts["retried"] += 1
            self._sender.send([pending])
        self._timing.schedule_retry(pending)

    def _fall_back(self, pending: Pending, detail: str) -> None:
        """Answer with the device's own exit, as soon as there is one."""
        pending.fallback = pending.fallback or detail
        if pending.local is None and not pending.failure:
            if not pending.is_shadowed:
                self._shadow.ask(pending)
        elif self._pending.take(pending.request_id):
            self.settle_here(pending, pending.fallback)

    def _shadowed(self, pending: Pending) -> None:
        """Note that the device's own exit is known; runs on the shadow's thread."""
        if pending.fallback and self._pending.take(pending.request_id):
            self.settle_here(pending, pending.fallback)
        elif race := self.answers.race_here(pending):
            self._races.second(pending.request_id, race)
