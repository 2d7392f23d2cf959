"""The recorder: finished requests into the log, and a receipt to the device once they are committed."""

import logging
from collections import Counter
from collections.abc import Sequence

import msgspec

from common.errors import OverloadedError, TransportError, WireError
from common.store.quarantine import Quarantine
from common.store.vault import NoVault, Vault
from common.store.writer import Committed, RequestLogWriter
from common.transport.contract import Delivery, Transport
from common.types import Record
from common.wire import codec
from common.wire.messages import Failure, LogRecord, LogRecords, Message, Receipt
from common.wire.topics import Topics

_NO_VAULT = NoVault()
_LOGGER = logging.getLogger(__name__)


class Receipts:
    """Tells each device which of its records are committed, and which the log will never take."""

    def __init__(self, transport: Transport, topics: Topics, node: str) -> None:
        self._transport = transport
        self._topics = topics
        self._node = node

    def send(self, committed: Sequence[Committed]) -> None:
        """Send one receipt per device."""
        by_device: dict[str, list[str]] = {}
        for device_id, request_id in committed:
            by_device.setdefault(device_id, []).append(request_id)
        for device_id, ids in by_device.items():
            self._say(device_id, Receipt(request_ids=tuple(ids)))

    def refuse(self, record: Record, reason: str) -> None:
        """Tell the sender that a record cannot be logged, so that it does not come again."""
        refusal = Failure(request_id=record.answer.request_id, code="record_refused", detail=reason, node=self._node)
        self._say(record.answer.device_id, refusal)

    def _say(self, device_id: str, message: Receipt | Failure) -> None:
        try:
            self._transport.publish(self._topics.outcome(device_id), codec.encode(message))
        except TransportError as exc:
            _LOGGER.warning("a receipt for %s is not sent; its records come again: %s", device_id, exc)


class Recorder:
    """Takes records in and acknowledges what is on disk; a record that is dropped comes again."""

    def __init__(
        self,
        writer: RequestLogWriter,
        receipts: Receipts,
        quarantine: Quarantine | None = None,
        vault: Vault = _NO_VAULT,
    ) -> None:
        self._vault = vault
        self.counters: Counter[str] = Counter()
        self._writer = writer
        self._receipts = receipts
        self._quarantine = quarantine

    def handle(self, deliveries: list[Delivery]) -> None:
        """Queue each record for the log."""
        for delivery in deliveries:
            message = self._decode(delivery.payload, delivery.topic)
            if isinstance(message, LogRecords):
                for payload in message.messages:
                    self._take(self._decode(payload, delivery.topic), payload, delivery.topic)
            else:
                self._take(message, delivery.payload, delivery.topic)

    def _decode(self, payload: bytes, topic: str) -> Message | None:
        try:
            return codec.decode(payload)
        except WireError as exc:
            self._count_refusal(payload, topic, exc)
            return None

    def _take(self, message: Message | None, payload: bytes, topic: str) -> None:
        if message is None:
            return
        if not isinstance(message, LogRecord):
            self._count_refusal(payload, topic, WireError(f"the log takes records, not {type(message).__name__}"))
            return
        try:
            self._writer.append(self._sealed(message.record))
        except WireError as exc:
            self._count_refusal(payload, topic, exc)
            self._receipts.refuse(message.record, str(exc))
        except OverloadedError as exc:
            self.counters["deferred"] += 1
            _LOGGER.warning("a record has to come again: %s", exc)

    def _sealed(self, record: Record) -> Record:
        text = self._vault.seal_text(record.text, record.answer.request_id)
        return msgspec.structs.replace(record, text=text)

    def _count_refusal(self, payload: bytes, topic: str, exc: WireError) -> None:
        self.counters["refused"] += 1
        if self._quarantine is not None:
            self._quarantine.put_bytes(topic, payload, str(exc))
        _LOGGER.warning("refused %d bytes on %s: %s", len(payload), topic, exc)
