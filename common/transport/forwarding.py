"""A transport over another one, for whoever changes only what is published or who may listen."""

from collections.abc import Sequence

import msgspec

from common.errors import TransportError
from common.transport.contract import Inbox, Publication, Transport, refusals


class ForwardingTransport:
    """Passes on what its heirs do not do otherwise (see ``Transport``)."""

    def __init__(self, inner: Transport) -> None:
        self._inner = inner

    @property
    def is_connected(self) -> bool:
        """Whether the transport below is connected."""
        return self._inner.is_connected

    def subscribe(self, topic: str, inbox: Inbox, *, group: str | None = None) -> None:
        """Bring messages in."""
        self._inner.subscribe(topic, inbox, group=group)

    def unsubscribe(self, topic: str) -> None:
        """Bring nothing more of a filter."""
        self._inner.unsubscribe(topic)

    def publish(
        self, topic: str, payload: bytes, *, qos: int = 1, is_retained: bool = False, expiry_s: float | None = None
    ) -> None:
        """Send what stands for a message (see ``Transport``)."""
        payload = self._outward(topic, payload)
        self._inner.publish(topic, payload, qos=qos, is_retained=is_retained, expiry_s=expiry_s)

    def publish_all(self, publications: Sequence[Publication]) -> list[TransportError | None]:
        """Send together what stands for messages (see ``Transport``)."""
        leaving: list[Publication] = []
        reasons = refusals(
            lambda p: leaving.append(msgspec.structs.replace(p, payload=self._outward(p.topic, p.payload))),
            publications,
        )
        below = iter(self._inner.publish_all(leaving))
        return [next(below) if reason is None else reason for reason in reasons]

    def wait_connected(self, timeout: float) -> bool:
        """Wait until connected."""
        return self._inner.wait_connected(timeout)

    def _outward(self, topic: str, payload: bytes) -> bytes:  # noqa: ARG002 - heirs decide by it
        """Give what is sent in place of a payload; a TransportError keeps it here."""
        return payload
