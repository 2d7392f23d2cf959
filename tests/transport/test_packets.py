"""What stands in the stream between a broker and a link: packets cut, joined, malformed and written in part."""

import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

import pytest
from paho.mqtt.enums import MQTTProtocolVersion

from common.config.settings import Mqtt
from common.transport.events import Lost
from common.transport.link import Link
from common.transport.login import login
from common.transport.outbox import Outbox, Outgoing
from common.transport.routes import Subscription

V5, V311 = MQTTProtocolVersion.MQTTv5, MQTTProtocolVersion.MQTTv311
PINGRESP = b"\xd0\x00"
WINDOW = 100


class Recorded(socket.socket):
    """Remembers how much each call has sent."""

    def __init__(self, fileno: int) -> None:
        super().__init__(fileno=fileno)
        self.sent: list[int] = []

    def send(self, data: Any, flags: int = 0) -> int:
        self.sent.append(super().send(data, flags))
        return self.sent[-1]


class Ends:
    """A link as after its CONNECT, and the broker's end of its connection."""

    def __init__(self, version: MQTTProtocolVersion) -> None:
        near, self.far = socket.socketpair()
        self.near = Recorded(near.detach())
        self.near.setblocking(False)
        self.far.setblocking(False)
        self.delivered: list[tuple[str, bytes]] = []
        self.acknowledged: list[int] = []
        self.link = Link(
            login(Mqtt(), "node", None),
            version,
            deliver=lambda *message: self.delivered.append(message),
            acknowledge=lambda packet_id, _refusal: self.acknowledged.append(packet_id),
        )
        self.link._client._sock = self.near  # type: ignore[assignment]

    def read(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.far.sendall(piece)
            self.link.read()
            while self.link._is_unread and not self.link.events:
                self.link.read()

    def written(self) -> bytes:
        self.link.write()
        written = b""
        with suppress(BlockingIOError):
            while piece := self.far.recv(1 << 20):
                written += piece
        return written


@contextmanager
def opened(version: MQTTProtocolVersion = V5) -> Iterator[Ends]:
    ends = Ends(version)
    with ends.far, ends.near, closing(ends.link):
        yield ends


@pytest.fixture
def ends() -> Iterator[Ends]:
    with opened() as both:
        yield both


def length(number: int) -> bytes:
    if number < 128:
        return bytes([number])
    return bytes([number % 128 | 128]) + length(number // 128)


def a_publish(payload: bytes, *, packet_id: int = 0, flags: int = 0, version: MQTTProtocolVersion = V5) -> bytes:
    properties = bytes([5, 2, 0, 0, 0, 9]) if version == V5 else b""
    body = b"\0\3a/b" + (packet_id.to_bytes(2) if packet_id else b"") + properties + payload
    return bytes([0x30 | flags | 2 * bool(packet_id)]) + length(len(body)) + body


def puback(packet_id: int) -> bytes:
    return b"\x40\x02" + packet_id.to_bytes(2)


@pytest.mark.parametrize("version", [V5, V311])
def test_a_stream_that_is_cut_anywhere_gives_the_same_messages(version: MQTTProtocolVersion) -> None:
    payloads = [b"", b"x", bytes(200), b"last"]
    stream = PINGRESP.join(
        a_publish(payload, packet_id=number, flags=flags, version=version)
        for number, (payload, flags) in enumerate(zip(payloads, (0, 1, 8, 0), strict=True))  # retained, sent again
    )

    for cut in range(len(stream) + 1):
        with opened(version) as ends:
            ends.read(stream[:cut], stream[cut:])

            assert ends.delivered == [("a/b", payload) for payload in payloads], cut
            assert ends.written() == puback(1) + puback(2) + puback(3)
            assert not ends.link.events


def test_a_stream_that_comes_byte_by_byte_gives_the_same_messages(ends: Ends) -> None:
    stream = a_publish(bytes(130), packet_id=5) + PINGRESP + a_publish(b"x")

    ends.read(*(stream[at : at + 1] for at in range(len(stream))))

    assert ends.delivered == [("a/b", bytes(130)), ("a/b", b"x")]


@pytest.mark.parametrize("payload_bytes", [0, 120, 16_400, 70_000])
def test_messages_of_every_length_stand_one_behind_another(ends: Ends, payload_bytes: int) -> None:
    payloads = [bytes([number]) * payload_bytes for number in range(3)]
    stream = b"".join(map(a_publish, payloads))

    ends.read(*(stream[at : at + 50_000] for at in range(0, len(stream), 50_000)))

    assert ends.delivered == [("a/b", payload) for payload in payloads]


def test_messages_that_came_together_are_handed_over_at_one_look(ends: Ends) -> None:
    ends.far.sendall(b"".join(a_publish(bytes([number]), packet_id=number + 1) for number in range(10)))

    ends.link.read()

    assert [payload for _, payload in ends.delivered] == [bytes([number]) for number in range(10)]
    assert ends.written() == b"".join(map(puback, range(1, 11)))
    assert ends.near.sent == [40]


def test_a_message_shows_that_the_broker_lives(ends: Ends) -> None:
    ends.link._client._last_bytes_received = 0.0

    ends.read(a_publish(b"x"))

    assert ends.link._client._last_bytes_received > 0.0


@pytest.mark.parametrize(
    "malformed",
    [
        b"\x30\x00",  # no topic
        b"\x30\x04\x00\x09ab",  # the topic is longer than the packet
        b"\x32\x05\x00\x03a/b",  # no packet id
        b"\x30\x06\x00\x03a/b\x05",  # the properties are longer than the packet
        b"\x30\x0a\x00\x03a/b\xff\xff\xff\xff\x01",  # their length has five bytes
    ],
)
@pytest.mark.parametrize("behind", [b"", a_publish(b"behind")])
def test_a_malformed_message_ends_the_connection_and_none_before_it_is_lost(
    ends: Ends, malformed: bytes, behind: bytes
) -> None:
    ends.read(a_publish(b"before") + malformed + behind)

    lost = ends.link.events[0]
    assert isinstance(lost, Lost)
    assert "malformed packet" in lost.reason
    assert ends.delivered == [("a/b", b"before")]


def test_a_length_of_five_bytes_ends_the_connection(ends: Ends) -> None:
    ends.read(a_publish(b"before") + b"\x30\xff\xff\xff\xff\x01" + bytes(100))

    assert isinstance(ends.link.events[0], Lost)
    assert ends.delivered == [("a/b", b"before")]


def test_a_closed_connection_is_lost_after_what_came_before(ends: Ends) -> None:
    ends.far.sendall(a_publish(b"before"))
    ends.far.shutdown(socket.SHUT_WR)

    ends.link.read()
    ends.link.read()

    assert isinstance(ends.link.events[0], Lost)
    assert ends.delivered == [("a/b", b"before")]


def test_what_is_queued_together_leaves_at_once_and_in_order(ends: Ends) -> None:
    messages = [Outgoing(topic="a/b", payload=bytes([number]), qos=number % 2) for number in range(8)]

    packet_ids = [ends.link.send(message) for message in messages]
    ends.link.subscribe(Subscription("c", None), has_groups=True)
    written = ends.written()

    with opened() as other:
        one_by_one = [other.link.send(message) and other.written() for message in messages]
        other.link.subscribe(Subscription("c", None), has_groups=True)
        assert written == b"".join([*one_by_one, other.written()])  # type: ignore[list-item]
    assert len(ends.near.sent) == 1
    assert ends.acknowledged == packet_ids[::2]  # those at QoS 0


def test_a_farewell_goes_last_and_closes_the_socket(ends: Ends) -> None:
    ends.link.send(Outgoing(topic="a/b", payload=b"x", qos=0))
    ends.link.disconnect()

    written = ends.written()

    assert written == b"\x30\x07\x00\x03a/b\x00x" + b"\xe0\x00"
    assert isinstance(ends.link.events[0], Lost)


def test_what_the_socket_does_not_take_goes_out_later(ends: Ends) -> None:
    ends.near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    outbox = Outbox(WINDOW, 1_000_000)
    payloads = [bytes([number]) * size for number, size in enumerate([9_700, 100, 200_000, 3, 9_700] * 4)]
    for payload in payloads:
        outbox.append(Outgoing(topic="a/b", payload=payload, qos=0))

    ends.link.flush(outbox, WINDOW)
    assert ends.link._client.want_write()
    assert not ends.acknowledged
    written = b""
    while ends.link._client.want_write():
        written += ends.written()
    written += ends.written()

    with opened() as other:
        other.read(*(written[at : at + 50_000] for at in range(0, len(written), 50_000)))
        assert other.delivered == [("a/b", payload) for payload in payloads]
    assert len(ends.acknowledged) == len(payloads)


def test_more_than_a_window_leaves_while_the_socket_takes_it(ends: Ends) -> None:
    outbox = Outbox(WINDOW, 1_000_000)
    for number in range(10):
        outbox.append(Outgoing(topic="a/b", payload=bytes([number]), qos=0))
    ends.link._acknowledge = lambda packet_id, _refusal: outbox.acknowledged(packet_id)  # type: ignore[assignment, return-value]

    ends.link.flush(outbox, 4)

    assert len(outbox) == 0
    assert len(ends.near.sent) == 3
