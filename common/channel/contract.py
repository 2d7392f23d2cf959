"""What a channel does for a process, and the channel that does nothing."""

from typing import Protocol

from common.transport.contract import Inbox, Transport
from common.wire.messages import SignedOutcome


class Channel(Protocol):
    """Stands between a process and its transport; chosen once, when the process is built."""

    @property
    def tier_key(self) -> str:
        """The key that this node announces in its status; empty where there is none."""

    def over(self, transport: Transport) -> Transport:
        """Give the transport that the process uses instead."""
        ...

    def inbox(self, max_deliveries: int) -> Inbox:
        """Give an inbox for messages between tiers."""
        ...

    def counters(self) -> dict[str, int]:
        """Count what was sealed and opened, and what was refused, by reason."""
        ...


class Signer(Protocol):
    """Vouches for a tier's outcomes."""

    def sign(self, device_id: str, outcome: bytes) -> SignedOutcome:
        """Sign an encoded outcome for one device."""
        ...


class Plain:
    """Hands everything through."""

    tier_key = ""

    def over(self, transport: Transport) -> Transport:
        """Give the same transport."""
        return transport

    def inbox(self, max_deliveries: int) -> Inbox:
        """Give an ordinary inbox."""
        return Inbox(max_deliveries)

    def counters(self) -> dict[str, int]:
        """Count nothing."""
        return {}
