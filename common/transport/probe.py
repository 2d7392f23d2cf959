"""A connection for questions to a broker: what it grants, refuses and allows, one question at a time.

Unlike a transport it never tries again and queues nothing, so that every answer belongs to one question.
"""

import time
from collections import deque
from types import TracebackType
from typing import Self

from paho.mqtt.enums import MQTTProtocolVersion

from common.config.settings import Mqtt
from common.errors import ConfigError, TransportError
from common.transport.contract import Delivery
from common.transport.events import Accepted, Denied, Granted, Lost, Refused
from common.transport.link import HANDSHAKE_LIMIT_S, Link
from common.transport.login import login
from common.transport.negotiation import Versions
from common.transport.outbox import Outgoing
from common.transport.routes import Subscription

_ANSWER_LIMIT_S = 3.0
_VERSION_UNSUPPORTED = 0x84


class Probe:
    """Enter it to connect; every method blocks, and belongs to the thread that entered it."""

    def __init__(self, settings: Mqtt, client_id: str) -> None:
        """Prepare without connecting.

        Raises:
            ConfigError: The password file is missing, or another setting of the login is wrong.
        """
        self._settings = settings
        self._login = login(settings, client_id, None)
        self._versions = Versions(settings.version)
        self._received: deque[Delivery] = deque()
        self._acknowledged: dict[int, str | None] = {}

    def __enter__(self) -> Self:
        """Connect.

        Raises:
            ConfigError: The broker refuses this login or MQTT version.
            TransportError: Nobody answers, or the connection breaks.
        """
        while True:
            end = self._open()
            match end:
                case Accepted():
                    self.limits = end
                    return self
                case Refused(code, _) if code == _VERSION_UNSUPPORTED and self._versions.refused():
                    continue
                case Lost() if self._versions.closed_early():
                    continue
                case Refused(_, reason):
                    raise ConfigError(f"{self._login.broker} refused user {self._login.username!r}: {reason}")
                case Lost(reason, _):
                    raise TransportError(f"{self._login.broker} closed the connection: {reason}")

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._link.disconnect()
        self._link.write()
        self._link.close()

    @property
    def is_v5(self) -> bool:
        """Whether the connection speaks MQTT 5, which tells why something is refused."""
        return self._versions.current == MQTTProtocolVersion.MQTTv5

    def subscribe(self, topic: str, *, group: str | None = None) -> str | None:
        """Subscribe, and give the broker's refusal, or None when it is granted.

        Raises:
            TransportError: The connection broke, or no answer came.
        """
        packet_id = self._link.subscribe(Subscription(topic, group), has_groups=group is not None, qos=0)
        deadline = time.monotonic() + _ANSWER_LIMIT_S
        while time.monotonic() < deadline:
            match self._step(deadline):
                case Granted(found) if found == packet_id:
                    return None
                case Denied(found, reason) if found == packet_id:
                    return reason
        raise TransportError(f"{self._login.broker} did not answer the subscription to {topic!r}")

    def publish(self, topic: str, payload: bytes, *, is_retained: bool = False) -> str | None:
        """Publish with QoS 1, and give the broker's refusal, or None when it is acknowledged.

        Raises:
            TransportError: The connection broke, or no answer came.
        """
        packet_id = self._link.send(Outgoing(topic=topic, payload=payload, is_retained=is_retained))
        deadline = time.monotonic() + _ANSWER_LIMIT_S
        while packet_id not in self._acknowledged and time.monotonic() < deadline:
            self._step(deadline)
        if packet_id is None or packet_id not in self._acknowledged:
            raise TransportError(f"{self._login.broker} did not acknowledge a message for {topic!r}")
        return self._acknowledged.pop(packet_id)

    def receive(self, limit_s: float) -> Delivery | None:
        """Give the next message, or None when none came within the limit.

        Raises:
            TransportError: The connection broke.
        """
        deadline = time.monotonic() + limit_s
        while not self._received and time.monotonic() < deadline:
            self._step(deadline)
        return self._received.popleft() if self._received else None

    def _open(self) -> Accepted | Refused | Lost:
        self._link = Link(
            self._login, self._versions.current, deliver=self._deliver, acknowledge=self._acknowledged.__setitem__
        )
        try:
            self._link.open()
            deadline = time.monotonic() + HANDSHAKE_LIMIT_S
            while time.monotonic() < deadline:
                self._link.wait_readable(max(0.0, deadline - time.monotonic()))
                event = self._next_event()
                if isinstance(event, Accepted):
                    return event
                if isinstance(event, Refused | Lost):
                    self._link.close()
                    return event
        except OSError as exc:
            self._link.close()
            raise TransportError(f"{self._login.broker} cannot be reached: {exc}") from exc
        self._link.close()
        raise TransportError(f"{self._login.broker} accepts the connection, but does not answer MQTT's CONNECT")

    def _step(self, deadline: float) -> Granted | Denied | None:
        self._link.write()
        self._link.wait_readable(max(0.0, deadline - time.monotonic()))
        event = self._next_event()
        match event:
            case Lost(reason, _):
                raise TransportError(f"{self._login.broker} closed the connection: {reason}")
            case Granted() | Denied():
                return event
        return None

    def _next_event(self) -> Accepted | Refused | Granted | Denied | Lost | None:
        self._link.read()
        self._link.write()
        return self._link.events.popleft() if self._link.events else None

    def _deliver(self, topic: str, payload: bytes) -> None:
        self._received.append(Delivery(topic, payload, time.monotonic()))
