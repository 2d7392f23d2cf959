"""The recorder: finished requests into the log, and a receipt to the device once they are committed."""

import logging
from collections import Counter

from common.errors import OverloadedError, TransportError, WireError
from common.store.writer import RequestLogWriter
from common.transport.contract import Delivery, Transport
from common.types import Record
from common.wire import codec
from common.wire.messages import LogRecord, Receipt
from common.wire.topics import Topics

_LOGGER = logging.getLogger(__name__)


class Receipts:
    """Tells each device which of its records are committed."""

    def __init__(self, transport: Transport, topics: Topics) -> None:
        self._transport = transport
        self._topics = topics
        self._senders: dict[str, str] = {}  # device by request, until committed

    def owe(self, record: Record) -> None:
        """Remember who sent a record."""
        self._senders[record.answer.request_id] = record.answer.device_id

    def send(self, request_ids: tuple[str, ...]) -> None:
        """Send one receipt per device."""
        by_device: dict[str, list[str]] = {}
        for request_id in request_ids:
            if device_id := self._senders.pop(request_id, None):
                by_device.setdefault(device_id, []).append(request_id)
        for device_id, ids in by_device.items():
            try:
                self._transport.publish(self._topics.outcome(device_id), codec.encode(Receipt(request_ids=tuple(ids))))
            except TransportError as exc:
                _LOGGER.warning("%d receipts for %s are not sent; its records come again: %s", len(ids), device_id, exc)


class Recorder:
    """Takes records in and acknowledges what is on disk; a record that is dropped comes again."""

    def __init__(self, writer: RequestLogWriter, receipts: Receipts) -> None:
        self.counters: Counter[str] = Counter()
        self._writer = writer
        self._receipts = receipts

    def handle(self, deliveries: list[Delivery]) -> None:
        """Queue each record for the log."""
        for delivery in deliveries:
            self._take(delivery)

    def _take(self, delivery: Delivery) -> None:
        try:
            message = codec.decode(delivery.payload)
            if not isinstance(message, LogRecord):
                raise WireError(f"the log takes records, not {type(message).__name__}")  # noqa: TRY301 - one refusal
            self._receipts.owe(message.record)
            self._writer.append(message.record)
        except WireError as exc:
            self.counters["refused"] += 1
            _LOGGER.warning("refused %d bytes on %s: %s", len(delivery.payload), delivery.topic, exc)
        except OverloadedError as exc:
            self.counters["deferred"] += 1
            _LOGGER.warning("a record has to come again: %s", exc)
