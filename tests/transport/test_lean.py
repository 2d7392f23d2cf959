"""The lean way through paho: what paho itself reads and writes is the reference."""

import pytest
from paho.mqtt import _packet
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from common.transport.lean import LeanClient, expiry

V5, V311 = MQTTProtocolVersion.MQTTv5, MQTTProtocolVersion.MQTTv311


def received(version: MQTTProtocolVersion, command: int, body: bytes) -> list[tuple[bytes, bytes]]:
    came: list[tuple[bytes, bytes]] = []
    client = LeanClient(
        CallbackAPIVersion.VERSION2, "node", protocol=version, deliver=lambda *message: came.append(message)
    )
    acknowledged: list[int] = []
    client._send_puback = acknowledged.append  # type: ignore[method-assign, assignment]
    client._in_packet = {**client._in_packet, "command": command, "packet": bytearray(body)}

    client._handle_publish()

    assert acknowledged == ([7] if command & 6 else [])
    return came


def a_body(*, has_id: bool, properties: bytes, topic: bytes = b"a/b", payload: bytes = b"\x00\x01") -> bytes:
    return len(topic).to_bytes(2) + topic + (b"\x00\x07" if has_id else b"") + properties + payload


def some_properties(user_bytes: int) -> bytes:
    properties = Properties(PacketTypes.PUBLISH)
    properties.MessageExpiryInterval = 9
    properties.UserProperty = ("name", "x" * user_bytes)
    return bytes(properties.pack())


@pytest.mark.parametrize("qos", [0, 1])
@pytest.mark.parametrize("user_bytes", [0, 200, 20_000])  # a length of one, two and three bytes
def test_a_message_is_what_paho_says_it_is(qos: int, user_bytes: int) -> None:
    command, body = 0x30 | qos << 1, a_body(has_id=bool(qos), properties=some_properties(user_bytes))

    expected = _packet.decode_publish(command, bytearray(body), V5)

    assert received(V5, command, body) == [(bytes(expected.topic), bytes(expected.payload))]


def test_mqtt_3_has_no_properties() -> None:
    assert received(V311, 0x30, a_body(has_id=False, properties=b"", payload=b"")) == [(b"a/b", b"")]


@pytest.mark.parametrize("cut", range(12))
def test_a_message_that_ends_early_is_refused(cut: int) -> None:
    whole = a_body(has_id=True, properties=some_properties(0), payload=b"")
    assert received(V5, 0x32, whole)

    with pytest.raises((ValueError, IndexError)):
        received(V5, 0x32, whole[: len(whole) - 1 - cut])


@pytest.mark.parametrize("seconds", [1, 255, 70_000, 2**32 - 1])
def test_the_expiry_is_packed_as_paho_packs_it(seconds: int) -> None:
    reference = Properties(PacketTypes.PUBLISH)
    reference.MessageExpiryInterval = seconds

    assert expiry(seconds).pack() == reference.pack()
