"""paho's client without what costs most on the way of every message.

It overrides two of paho's private methods and calls three. A paho that does not call the two would merely be as slow as
it always was; one that changes a meaning fails in the tests of the transport: hence the bound on its version in
``pyproject.toml``.
"""

import functools
from collections.abc import Callable
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

_READ_BYTES = 65_536  # taken from the socket at once
_UNTOLD = 1  # of a packet at QoS 0 paho tells that it is written, by objects that cost more than the packet
_EXPIRY = 2  # identifier of the property (MQTT 5, section 2.2.2.2)


class LeanClient(paho.Client):
    """Reads ahead, and hands a message over as topic and payload; its properties are nobody's business here."""

    def __init__(self, *arguments: Any, deliver: Callable[[bytes, bytes], None], **options: Any) -> None:
        """Prepare paho's client; ``deliver`` takes the place of ``on_message``."""
        super().__init__(*arguments, **options)
        self._deliver = deliver
        self._ahead = b""

    @property
    def has_unread(self) -> bool:
        """Whether bytes are here that paho has not asked for yet."""
        return bool(self._ahead)

    def publish_once(self, topic: bytes, payload: bytes, *, is_retained: bool, properties: Properties | None) -> int:
        """Queue a PUBLISH at QoS 0 (MQTT 5, section 3.3) and give it a number; nobody is told when it is written."""
        body = (len(topic).to_bytes(2), topic, self._packed(properties), payload)
        packet = bytearray((paho.PUBLISH | is_retained,))
        self._pack_remaining_length(packet, sum(map(len, body)))
        number = self._mid_generate()
        self._packet_queue(paho.PUBLISH, b"".join((packet, *body)), number, _UNTOLD, None)
        return number

    def _packed(self, properties: Properties | None) -> bytes:
        if self._protocol != MQTTProtocolVersion.MQTTv5:
            return b""
        return b"\0" if properties is None else properties.pack()  # type: ignore[no-untyped-call]

    def _sock_recv(self, bufsize: int) -> bytes:
        """Give what was read ahead: paho asks for a packet's first byte, each byte of its length, and its body."""
        ahead = self._ahead or super()._sock_recv(max(bufsize, _READ_BYTES))
        self._ahead = ahead[bufsize:]
        return ahead[:bufsize]

    def _handle_publish(self) -> MQTTErrorCode:
        """Read a PUBLISH (MQTT 5, section 3.3); paho spends most of a message's time on its properties."""
        packet = self._in_packet["packet"]
        qos = self._in_packet["command"] >> 1 & 3
        end = 2 + int.from_bytes(packet[:2])
        topic, start = bytes(packet[2:end]), end + 2 * bool(qos)
        if self._protocol == MQTTProtocolVersion.MQTTv5:
            start = _behind_properties(packet, start)
        if start > len(packet):
            raise ValueError(f"a PUBLISH of {len(packet)} bytes ends before its payload")
        self._deliver(topic, bytes(memoryview(packet)[start:]))
        return self._send_puback(int.from_bytes(packet[end : end + 2])) if qos else MQTTErrorCode.MQTT_ERR_SUCCESS


class Expiry(Properties):
    """The one property that our messages have, written at once and not by asking for each that there might be."""

    def __init__(self, seconds: int) -> None:
        super().__init__(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        self.MessageExpiryInterval = seconds

    def pack(self) -> bytes:
        """Give length, identifier and value."""
        return bytes((5, _EXPIRY)) + int(self.MessageExpiryInterval).to_bytes(4)


@functools.lru_cache(maxsize=4096)
def expiry(seconds: int) -> Expiry:
    """Give the property for a number of seconds."""
    return Expiry(seconds)


def _behind_properties(packet: bytearray, start: int) -> int:
    """Find where the properties end whose length, a variable byte integer, stands at ``start``."""
    length = shift = 0
    while True:
        byte, start = packet[start], start + 1
        length |= (byte & 127) << shift
        shift += 7
        if not byte & 128:
            return start + length
