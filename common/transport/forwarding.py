"""A transport over another one, for whoever changes only what is published or who may listen."""

from common.transport.contract import Inbox, Transport


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

    def wait_connected(self, timeout: float) -> bool:
        """Wait until connected."""
        return self._inner.wait_connected(timeout)
