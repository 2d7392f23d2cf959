"""Finished requests on their way to the log, kept until the recorder's receipt."""

import logging
import threading
import time
from collections import OrderedDict

from common.transport.contract import Transport

from common.errors import TransportError
from common.types import Record
from common.wire import codec
from common.wire.messages import LogRecord, Receipt

_LOGGER = logging.getLogger(__name__)


class Journal:
    """Sends every record, and again until it is receipted."""

    def __init__(self, transport: Transport, topic: str, *, capacity: int, resend_s: float = 2.0) -> None:
        self._transport = transport
        self._topic = topic
        self._capacity = capacity
        self._resend_s = resend_s
        self._lock = threading.Lock()
        self._is_settled = threading.Condition(self._lock)
        self._unreceipted: OrderedDict[str, tuple[bytes, float]] = OrderedDict()  # oldest sending first

    def __len__(self) -> int:
        return len(self._unreceipted)

    @property
    def is_full(self) -> bool:
        """Whether another record could be kept."""
        return len(self._unreceipted) >= self._capacity

    def append(self, record: Record) -> None:
        """Keep a record and send it."""
        payload = codec.encode(LogRecord(record=record))
        with self._lock:
            self._unreceipted[record.answer.request_id] = (payload, time.monotonic())
        self._send(payload)

    def receive(self, receipt: Receipt) -> None:
        """Forget what the recorder has committed."""
        with self._lock:
            for request_id in receipt.request_ids:
                self._unreceipted.pop(request_id, None)
            if not self._unreceipted:
                self._is_settled.notify_all()

    def resend(self) -> None:
        """Send again what has waited too long for its receipt."""
        now = time.monotonic()
        for payload in self._take_late(now):
            self._send(payload)

    def _take_late(self, now: float) -> list[bytes]:
        late = []
        with self._lock:
            while self._unreceipted:
                request_id, (payload, sent_at) = next(iter(self._unreceipted.items()))
                if now - sent_at < self._resend_s:
                    break
                self._unreceipted[request_id] = (payload, now)
                self._unreceipted.move_to_end(request_id)
                late.append(payload)
        return late

    def wait_until_settled(self, limit_s: float) -> int:
        """Wait for the last receipt; tell how many records never got theirs."""
        with self._lock:
            self._is_settled.wait_for(lambda: not self._unreceipted, limit_s)
            return len(self._unreceipted)

    def _send(self, payload: bytes) -> None:
        try:
            self._transport.publish(self._topic, payload)
        except TransportError as exc:
            _LOGGER.debug("a record waits: %s", exc)  # resend comes
