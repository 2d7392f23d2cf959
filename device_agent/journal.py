"""Finished requests on their way to the log, kept until the recorder's receipt."""

import logging
import math
import sys
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from typing import Literal

from common.errors import TransportError
from common.store.promises import Promised
from common.transport.contract import Transport
from common.wire import codec
from common.wire.messages import LogRecords, Receipt
from device_agent.outbox import Outbox, Release

_LOGGER = logging.getLogger(__name__)
_WINDOW = 256  # records sent and not receipted; the rest waits here and leaves the transport to requests
_FULL = 64  # records that travel together at most
_GATHER_S = 0.2  # for which records wait for each other
_MAX_TOGETHER_BYTES = 100_000

WhenFull = Literal["refuse", "drop"]


class Journal:
    """Sends every record, oldest deadline first, and again until it is receipted.

    What finishes shortly after a sending goes together with the next one, so that the log costs a message per record
    only when there is hardly any work, and the recorder works through many records in a row.
    """

    def __init__(
        self,
        transport: Transport,
        topic: str,
        outbox: Outbox,
        *,
        capacity: int,
        when_full: WhenFull = "refuse",
        resend_s: float = 2.0,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self._transport = transport
        self._topic = topic
        self._outbox = outbox
        self._capacity = capacity
        self._when_full = when_full
        self._resend_s = resend_s
        self._sent_at = -math.inf  # monotonic seconds, of what left last for the first time
        self._is_awaited = False  # somebody waits for the last receipt
        self._lock = threading.Lock()
        self._is_settled = threading.Condition(self._lock)
        self._keeping: set[str] = set()  # on their way into the outbox
        self._waiting: OrderedDict[str, bytes] = OrderedDict()  # never sent, oldest first
        self._sent: OrderedDict[str, tuple[bytes, float]] = OrderedDict()  # oldest sending first
        self._amended: dict[str, bytes] = {}  # go when the receipt of what was sent before has come
        for kept in outbox.contents.unrecorded:
            self._waiting[kept.request_id] = kept.record

    def __len__(self) -> int:
        return len(self._keeping) + len(self._waiting) + len(self._sent)

    @property
    def room(self) -> int:
        """How many new requests need not be refused."""
        return max(0, self._capacity - len(self)) if self._when_full == "refuse" else sys.maxsize

    def append(self, promised: Promised, record: bytes, release: Release) -> None:
        """Keep a record and send it; ``release`` runs when the answer may be let go."""
        request_id = promised.request_id
        with self._lock:
            self._keeping.add(request_id)
        self._outbox.finish(promised, record, release)  # before it leaves: the log must not know more than the device
        with self._lock:
            self._keeping.discard(request_id)
            self._waiting[request_id] = record
            dropped = [] if self._when_full == "refuse" else self._drop_oldest()
        if dropped:
            self._outbox.forget(dropped)
        self.send_waiting()

    def amend(self, promised: Promised, record: bytes) -> None:
        """Send a record anew that says more than the one before; the log adds it to the row."""
        request_id = promised.request_id
        self._outbox.finish(promised, record, _nothing)
        with self._lock:
            if request_id in self._sent:
                self._amended[request_id] = record
            else:
                self._waiting[request_id] = record
        self.send_waiting()

    def receive(self, receipt: Receipt) -> None:
        """Forget what the recorder has committed."""
        with self._lock:
            known = [request_id for request_id in receipt.request_ids if self._pop(request_id)]
            later = {request_id: self._amended.pop(request_id) for request_id in known if request_id in self._amended}
            self._waiting.update(later)
            if not len(self):
                self._is_settled.notify_all()
        if known:
            self._outbox.forget([request_id for request_id in known if request_id not in later])
        self.send_waiting()

    def refuse(self, request_id: str, reason: str) -> bool:
        """Set aside a record that the recorder will not take; say whether it was one of ours."""
        with self._lock:
            if not self._pop(request_id):
                return False
            self._amended.pop(request_id, None)
            if not len(self):
                self._is_settled.notify_all()
        self.counters["quarantined"] += 1
        _LOGGER.error("%s: the recorder refuses its record, which is set aside: %s", request_id, reason)
        self._outbox.refuse(request_id, reason)
        return True

    def resend(self) -> None:
        """Send again what has waited too long for its receipt, and what could not be sent before."""
        if self._transport.is_connected:
            self._send(self._take_late(time.monotonic()))
            self.send_waiting()

    def send_waiting(self) -> None:
        """Send what the window has room for."""
        if not self._transport.is_connected:
            return
        self._send(self._take_waiting(time.monotonic()))

    def wait_until_settled(self, limit_s: float) -> int:
        """Let nothing wait for company, and wait for the last receipt; tell how many records never got theirs."""
        self._is_awaited = True
        self.send_waiting()
        with self._lock:
            self._is_settled.wait_for(lambda: not len(self), limit_s)
            self._is_awaited = False
            return len(self)

    def _pop(self, request_id: str) -> bool:
        return (self._sent.pop(request_id, None) or self._waiting.pop(request_id, None)) is not None

    def _drop_oldest(self) -> Sequence[str]:
        dropped = []
        while len(self._waiting) + len(self._sent) > self._capacity:
            request_id, _ = (self._sent or self._waiting).popitem(last=False)
            self._amended.pop(request_id, None)
            dropped.append(request_id)
        if dropped:
            self.counters["dropped_records"] += len(dropped)
            count = self.counters["dropped_records"]
            if count.bit_count() == 1:  # the 1st, 2nd, 4th, 8th, ...
                _LOGGER.warning("device.max_unrecorded is reached; %d oldest records dropped so far", count)
        return dropped

    def _take_waiting(self, now: float) -> list[bytes]:
        taken: list[bytes] = []
        with self._lock:
            is_gathering = now - self._sent_at < _GATHER_S and len(self._waiting) < _FULL
            if not self._waiting or (is_gathering and not self._is_awaited):
                return taken
            self._sent_at = now
            while self._waiting and len(self._sent) < _WINDOW:
                request_id, record = self._waiting.popitem(last=False)
                self._sent[request_id] = (record, now)
                taken.append(record)
        return taken

    def _take_late(self, now: float) -> list[bytes]:
        late = []
        with self._lock:
            while self._sent:
                request_id, (record, sent_at) = next(iter(self._sent.items()))
                if now - sent_at < self._resend_s:
                    break
                self._sent[request_id] = (record, now)
                self._sent.move_to_end(request_id)
                late.append(record)
        return late

    def _send(self, records: list[bytes]) -> None:
        for together in _batches(records):
            payload = together[0] if len(together) == 1 else codec.encode(LogRecords(messages=together))
            try:
                self._transport.publish(self._topic, payload)
            except TransportError as exc:
                _LOGGER.debug("%d records wait: %s", len(together), exc)  # resend comes


def _nothing() -> None:
    """Release nobody: the answer is long gone."""


def _batches(records: list[bytes]) -> Iterator[tuple[bytes, ...]]:
    together: list[bytes] = []
    num_bytes = 0
    for record in records:
        if together and (len(together) == _FULL or num_bytes + len(record) > _MAX_TOGETHER_BYTES):
            yield tuple(together)
            together, num_bytes = [], 0
        together.append(record)
        num_bytes += len(record)
    if together:
        yield tuple(together)
