"""paho's client without what costs most on the way of every message.

It overrides ``loop_read``, ``loop_write`` and four of paho's private methods (``_packet_read``, ``_packet_write``,
``_sock_recv``, ``_handle_publish``), calls four more (``_loop_rc_handle``, ``_mid_generate``, ``_send_puback``,
``_pack_remaining_length``) and knows six fields: ``_sock``, ``_protocol``, ``_last_bytes_received`` with its lock
``_msgtime_mutex``, the command and the packet in ``_in_packet``, and all that is in ``_out_packet``. A paho that does
not call what is overridden would merely be as slow as it always was; one that changes a meaning fails in the tests of
the transport: hence the bound on its version in ``pyproject.toml``.
"""

import functools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

_READ_BYTES = 65_536  # taken from the socket at once
_JOINED_BYTES = 65_536  # given to the socket at once, unless a single packet is larger: what it leaves is copied again
_PUBLISH_MASK = 0xF4  # the type of a packet, and the bit of QoS 2, which is never subscribed to
_UNTOLD = 1  # of a packet at QoS 0 paho tells that it is written, by objects that cost more than the packet
_EXPIRY = 2  # identifier of the property (MQTT 5, section 2.2.2.2)


class LeanClient(paho.Client):
    """Reads ahead, and hands a message over as topic and payload; its properties are nobody's business here.

    Messages at QoS 0 leave by ``publish_once`` alone, and nobody subscribes at QoS 2.
    """

    def __init__(self, *arguments: Any, deliver: Callable[[bytes, bytes], None], **options: Any) -> None:
        """Prepare paho's client; ``deliver`` takes the place of ``on_message``."""
        super().__init__(*arguments, **options)
        self._deliver = deliver
        self._ahead = b""

    @property
    def has_unread(self) -> bool:
        """Whether bytes are here that paho has not asked for yet."""
        return bool(self._ahead)

    def publish_once(self, topic: bytes, payload: bytes, *, is_retained: bool, expiry_s: int | None) -> int:
        """Queue a PUBLISH at QoS 0 (MQTT 5, section 3.3) and give it a number; nobody is told when it is written."""
        properties = _packed(expiry_s) if self._protocol == MQTTProtocolVersion.MQTTv5 else b""
        packet = bytearray((paho.PUBLISH | is_retained,))
        self._pack_remaining_length(packet, 2 + len(topic) + len(properties) + len(payload))
        whole = b"".join((packet, len(topic).to_bytes(2), topic, properties, payload))
        number = self._mid_generate()
        self._out_packet.append(_queued(whole, number))
        return number

    def loop_read(self, max_packets: int = 1) -> MQTTErrorCode:
        """Read from the socket at most once; go on while ``has_unread``."""
        del max_packets
        return MQTTErrorCode.MQTT_ERR_NO_CONN if self._sock is None else self._ended(self._packet_read())

    def loop_write(self) -> MQTTErrorCode:
        """Write what the socket takes; no event loop needs to be told what is left."""
        return MQTTErrorCode.MQTT_ERR_NO_CONN if self._sock is None else self._ended(self._packet_write())

    def _ended(self, rc: MQTTErrorCode) -> MQTTErrorCode:
        return self._loop_rc_handle(rc) if rc > 0 else MQTTErrorCode.MQTT_ERR_SUCCESS

    def _packet_read(self) -> MQTTErrorCode:
        """Hand over the messages that are here as a whole; what else there is, paho reads."""
        if self._in_packet["command"]:  # paho has read a packet in part
            return super()._packet_read()
        if not self._ahead:
            try:
                self._ahead = super()._sock_recv(_READ_BYTES)
            except BlockingIOError:
                return MQTTErrorCode.MQTT_ERR_AGAIN
            except OSError:
                return MQTTErrorCode.MQTT_ERR_CONN_LOST
            if not self._ahead:
                return MQTTErrorCode.MQTT_ERR_CONN_LOST
            with self._msgtime_mutex:
                self._last_bytes_received = time.monotonic()
        return MQTTErrorCode.MQTT_ERR_SUCCESS if self._hand_over_ahead() else super()._packet_read()

    def _hand_over_ahead(self) -> bool:
        """Take whole messages from what was read ahead, up to another packet or one in part; False if there is none."""
        ahead, at = self._ahead, 0
        while at < len(ahead) and ahead[at] & _PUBLISH_MASK == paho.PUBLISH:
            try:
                length, start = _variable_integer(ahead, at + 1)
            except (IndexError, ValueError):  # its length is here in part, or is none: paho says so
                break
            if start + length > len(ahead):
                break
            self._take(ahead[at] >> 1 & 3, ahead, start, start + length)
            at = start + length
        self._ahead = ahead[at:]
        return at > 0

    def _sock_recv(self, bufsize: int) -> bytes:
        """Give what was read ahead: paho asks for a packet's first byte, each byte of its length, and its body."""
        ahead = self._ahead or super()._sock_recv(max(bufsize, _READ_BYTES))
        self._ahead = ahead[bufsize:]
        return ahead[:bufsize]

    def _handle_publish(self) -> MQTTErrorCode:
        """Take a message that paho has read; it would spend most of a message's time on the properties."""
        packet = self._in_packet["packet"]
        self._take(self._in_packet["command"] >> 1 & 3, packet, 0, len(packet))
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _take(self, qos: int, packet: bytes | bytearray, at: int, end: int) -> None:
        """Hand over the PUBLISH (MQTT 5, section 3.3) that follows its fixed header from ``at`` to ``end``."""
        topic_end = at + 2 + int.from_bytes(packet[at : at + 2])
        start = topic_end + 2 * bool(qos)
        if self._protocol == MQTTProtocolVersion.MQTTv5:
            length, start = _variable_integer(packet, start)
            start += length
        if start > end:
            raise ValueError(f"a PUBLISH of {end - at} bytes ends before its payload")
        self._deliver(bytes(packet[at + 2 : topic_end]), bytes(memoryview(packet)[start:end]))
        if qos:
            self._send_puback(int.from_bytes(packet[topic_end : topic_end + 2]))

    def _packet_write(self) -> MQTTErrorCode:
        """Write what is queued, small packets as one: each would cost a system call and wake the broker."""
        if len(self._out_packet) > 1:
            self._out_packet = deque(map(_joined, _runs(self._out_packet)))
        return super()._packet_write()


class Expiry(Properties):
    """The one property that our messages have, written at once and not by asking for each that there might be."""

    def __init__(self, seconds: int) -> None:
        super().__init__(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        self.MessageExpiryInterval = seconds

    def pack(self) -> bytes:
        """Give length, identifier and value."""
        return _packed(self.MessageExpiryInterval)


@functools.lru_cache(maxsize=4096)
def expiry(seconds: int) -> Expiry:
    """Give the property for a number of seconds."""
    return Expiry(seconds)


@functools.lru_cache(maxsize=4096)
def _packed(expiry_s: int | None) -> bytes:
    return b"\0" if expiry_s is None else bytes((5, _EXPIRY)) + expiry_s.to_bytes(4)


def _variable_integer(packet: bytes | bytearray, at: int) -> tuple[int, int]:
    """Read a variable byte integer (MQTT 5, section 1.5.5) and say where it ends.

    Raises:
        IndexError: It is here in part.
        ValueError: It has more than four bytes.
    """
    byte = packet[at]
    value, shift = byte & 127, 7
    while byte & 128:
        if shift > 21:
            raise ValueError("a length of more than four bytes")
        at += 1
        byte = packet[at]
        value |= (byte & 127) << shift
        shift += 7
    return value, at + 1


def _runs(packets: Iterable[Any]) -> Iterator[list[Any]]:
    """Part what is queued into what may be written at once."""
    run: list[Any] = []
    size = 0
    for packet in packets:
        size += packet["to_process"]
        if run and (size > _JOINED_BYTES or _is_told(run[-1]) or _is_told(packet)):
            yield run
            run, size = [], packet["to_process"]
        run.append(packet)
    yield run


def _is_told(packet: Any) -> bool:
    """Whether paho does something once this packet is written."""
    kind: int = packet["command"] & 0xF0
    return kind == paho.DISCONNECT or (kind == paho.PUBLISH and packet["qos"] == 0)


def _joined(run: list[Any]) -> Any:
    """Make one packet of several that is written as they would be."""
    if len(run) == 1:
        return run[0]
    return _queued(b"".join([memoryview(packet["packet"])[packet["pos"] :] for packet in run]), 0)


def _queued(packet: bytes, number: int) -> Any:
    """Give what paho keeps of a packet until it is written, if it has nothing to do then."""
    size = len(packet)
    return {
        "command": paho.PUBLISH,
        "mid": number,
        "qos": _UNTOLD,
        "pos": 0,
        "to_process": size,
        "packet": packet,
        "info": None,
    }
