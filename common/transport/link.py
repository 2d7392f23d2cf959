"""One connection to an MQTT broker on paho; it lives from one CONNECT to the loss, and a new one follows.

Every method but ``wait_readable`` and ``wake`` is called under the transport's lock: paho 2 writes to its socket from
whichever thread calls, without a lock of its own. paho's callbacks only move data, so no decision is made inside paho.
"""

import math
import select
import socket
import ssl
from collections import deque
from collections.abc import Callable
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from common.transport.events import Accepted, Denied, Event, Granted, Lost, Refused
from common.transport.lean import LeanClient, expiry
from common.transport.login import Login
from common.transport.outbox import Outbox, Outgoing
from common.transport.routes import Subscription

HANDSHAKE_LIMIT_S = 5.0  # for the TCP connection, and again for the CONNACK
_UNACKED_LIMIT_MS = 10_000  # sent bytes without a TCP acknowledgement: the peer is gone
_TAKEN_OVER = 0x8E
_FAILED = 0x80  # reason codes from here on are failures
_NO_LIMIT = 268_435_455  # the largest packet that MQTT can frame
_V311_WINDOW = 20  # messages in flight where the broker tells no limit


class Link:
    """A paho client for a single connection."""

    def __init__(
        self,
        login: Login,
        version: MQTTProtocolVersion,
        *,
        deliver: Callable[[str, bytes], None],
        acknowledge: Callable[[int, str | None], None],
    ) -> None:
        """Prepare without connecting.

        Args:
            login: Where and as whom.
            version: The MQTT version to speak.
            deliver: Takes the topic and payload of each message that comes in.
            acknowledge: Takes the packet id of each message that the broker has (QoS 1) or the socket took (QoS 0),
                and why the broker threw it away, if it did.
        """
        self.events: deque[Event] = deque()
        self._login = login
        self._is_v5 = version == MQTTProtocolVersion.MQTTv5
        self._deliver = deliver
        self._acknowledge = acknowledge
        self._client = self._make_client(version)
        self._is_unread = False
        self._unwritten: deque[int] = deque()  # packet ids at QoS 0, until the socket took all that waits
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.settimeout(0)
        self._wake_writer.settimeout(0)

    def open(self) -> None:
        """Connect the socket and queue CONNECT; blocks up to the limit.

        Raises:
            OSError: Nobody listens, the name is unknown, or it took too long.
        """
        login = self._login
        if self._is_v5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.MaximumPacketSize = login.max_packet_bytes
            self._client.connect(login.host, login.port, login.keepalive_s, clean_start=True, properties=properties)
        else:
            self._client.connect(login.host, login.port, login.keepalive_s)

    def close(self) -> None:
        """Drop the socket, cleanly or not."""
        sock = self._client.socket()
        if sock is not None:
            sock.close()
        self._wake_reader.close()
        self._wake_writer.close()

    def wait_readable(self, timeout: float) -> None:
        """Wait until the socket has something, can take what waits, or somebody calls ``wake``."""
        if self.events or self._is_unread:
            return
        sock: Any = self._client.socket()
        writers = [sock] if self._client.want_write() else []
        try:
            readable, _, _ = select.select([sock, self._wake_reader], writers, [], timeout)
            if self._wake_reader in readable:
                self._wake_reader.recv(4096)
        except (TypeError, ValueError, OSError):
            return  # another thread's write found the connection dead and closed it; ``read`` will say so

    def wake(self) -> None:
        """End ``wait_readable``, from any thread."""
        try:
            self._wake_writer.send(b"\0")
        except BlockingIOError:
            return  # it is awake already

    def read(self) -> None:
        """Take in what the socket has and keep the connection alive."""
        self._guarded(self._client.loop_read)
        while self._client.has_unread and not self.events:
            self._guarded(self._client.loop_read)
        self._guarded(self._client.loop_misc)
        sock = self._client.socket()
        is_pending = isinstance(sock, ssl.SSLSocket) and sock.pending() > 0  # decrypted: select does not see it
        self._is_unread = is_pending or self._client.has_unread

    def write(self) -> None:
        """Write what is queued as far as the socket takes it; wake the reader to finish the rest."""
        if self._client.want_write():
            self._guarded(self._client.loop_write)
            if self._client.want_write():
                self.wake()
                return
        while self._unwritten:
            self._acknowledge(self._unwritten.popleft(), None)

    def send(self, message: Outgoing) -> int | None:
        """Queue a message and give its packet id; None when the connection is gone."""
        remaining_s, is_retained = message.remaining_s, message.is_retained
        expiry_s = None if remaining_s is None else max(1, math.ceil(remaining_s))
        if message.qos:
            properties = expiry(expiry_s) if self._is_v5 and expiry_s is not None else None
            info = self._client.publish(message.topic, message.payload, message.qos, is_retained, properties)
            return info.mid if info.rc == MQTTErrorCode.MQTT_ERR_SUCCESS else None
        if self._client.socket() is None:
            return None
        topic = message.topic.encode()
        packet_id = self._client.publish_once(topic, message.payload, is_retained=is_retained, expiry_s=expiry_s)
        self._unwritten.append(packet_id)
        return packet_id

    def flush(self, outbox: Outbox, window: int) -> None:
        """Send together what may go now."""
        while self._queue_waiting(outbox, window):
            self.write()  # what it takes at QoS 0 makes room in the window

    def subscribe(self, subscription: Subscription, *, has_groups: bool, qos: int = 1) -> int | None:
        """Queue a subscription and give its packet id; None when the connection is gone."""
        topic, group = subscription
        _, packet_id = self._client.subscribe(f"$share/{group}/{topic}" if group and has_groups else topic, qos)
        return packet_id

    def unsubscribe(self, topic: str) -> None:
        """Queue the end of a subscription."""
        self._client.unsubscribe(topic)

    def disconnect(self) -> None:
        """Queue DISCONNECT, so that the broker keeps the last will to itself."""
        self._client.disconnect()

    def lose(self, reason: str) -> None:
        """Give the connection up."""
        self.events.append(Lost(reason, is_taken_over=False))

    def _queue_waiting(self, outbox: Outbox, window: int) -> bool:
        is_queued = False
        while outbox.may_send(window) and (message := outbox.take()) is not None:
            packet_id = self.send(message)
            if packet_id is None:
                outbox.put_first(message)
                return False
            outbox.sent(packet_id, message)
            is_queued = True
        return is_queued

    def _guarded(self, step: Callable[[], MQTTErrorCode]) -> None:
        try:
            rc = step()
        except Exception as exc:  # noqa: BLE001 - paho parses the peer's bytes here and raises whatever it meets
            self.lose(f"malformed packet from the broker: {exc!r}")
            return
        if rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            self.lose(paho.error_string(rc))

    def _make_client(self, version: MQTTProtocolVersion) -> LeanClient:
        login = self._login
        client = LeanClient(
            CallbackAPIVersion.VERSION2,
            login.client_id,
            protocol=version,
            reconnect_on_failure=False,
            deliver=self._on_message,
        )
        client.connect_timeout = HANDSHAKE_LIMIT_S
        client.max_inflight_messages = 0  # the outbox keeps the window: paho forgets it when it resends
        if login.username is not None:
            client.username_pw_set(login.username, login.password)
        if login.tls is not None:
            client.tls_set_context(login.tls)
        if login.will is not None:
            client.will_set(login.will.topic, login.will.payload, qos=1, retain=True)
        client.on_socket_open = _tune
        client.on_socket_register_write = _ignore  # without it paho writes from inside publish()
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_subscribe
        client.on_publish = self._on_publish
        return client

    def _on_connect(
        self, _client: paho.Client, _user: Any, _flags: Any, reason: ReasonCode, properties: Properties | None
    ) -> None:
        if reason.is_failure:
            self.events.append(Refused(reason.value, str(reason)))
            return
        told = {} if properties is None else vars(properties)
        self.events.append(
            Accepted(
                max_packet_bytes=told.get("MaximumPacketSize", _NO_LIMIT),
                max_in_flight=told.get("ReceiveMaximum", 65_535) if self._is_v5 else _V311_WINDOW,
                has_groups=self._is_v5 and bool(told.get("SharedSubscriptionAvailable", 1)),
            )
        )

    def _on_disconnect(
        self, _client: paho.Client, _user: Any, _flags: Any, reason: ReasonCode | None, _properties: Any
    ) -> None:
        code = 0 if reason is None else reason.value
        self.events.append(Lost(str(reason), is_taken_over=code == _TAKEN_OVER))

    def _on_subscribe(
        self, _client: paho.Client, _user: Any, packet_id: int, reasons: list[ReasonCode], _properties: Any
    ) -> None:
        failures = [str(reason) for reason in reasons if reason.value >= _FAILED]
        self.events.append(Denied(packet_id, failures[0]) if failures else Granted(packet_id))

    def _on_publish(
        self, _client: paho.Client, _user: Any, packet_id: int, reason: ReasonCode, _properties: Any
    ) -> None:
        self._acknowledge(packet_id, str(reason) if reason.value >= _FAILED else None)

    def _on_message(self, topic: bytes, payload: bytes) -> None:
        try:
            name = topic.decode()
        except UnicodeDecodeError:
            name = ""  # no route leads there, so it is counted and dropped
        self._deliver(name, payload)


def _tune(_client: paho.Client, _user: Any, sock: Any) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # Nagle with delayed acks costs 44 ms a message
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKED_LIMIT_MS)


def _ignore(_client: paho.Client, _user: Any, _sock: Any) -> None:
    """Stand in for an event loop: the transport writes after each step."""
