"""A broker and transports inside one process, for tests and benchmarks without a network.

Publishing delivers before it returns and in the publisher's thread, so what happens is the same in every run.
"""

import itertools
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from common.transport.contract import Inbox, Presence, Transport
from common.transport.login import announcement
from common.transport.outbox import Outbox, Outgoing
from common.transport.routes import Routes, Subscription, matches


class LoopbackBroker:
    """Retained messages, shared groups and last wills; ``stop`` and ``start`` play an outage."""

    def __init__(self, *, max_packet_bytes: int = 2_000_000) -> None:
        self.max_packet_bytes = max_packet_bytes
        self.lock = threading.RLock()  # one for the broker and its transports: the order is that of publishing
        self.is_running = True
        self._members: dict[str, LoopbackTransport] = {}  # by client id
        self._retained: dict[str, Outgoing] = {}
        self._turns: dict[Subscription, Iterator[int]] = {}

    def stop(self) -> None:
        """Lose all connections, sessions and retained messages."""
        with self.lock:
            self.is_running = False
            self._retained.clear()
            for member in list(self._members.values()):
                member.come_offline()

    def start(self) -> None:
        """Take everybody in again."""
        with self.lock:
            self.is_running = True
            for member in list(self._members.values()):
                member.come_online()

    def join(self, member: "LoopbackTransport") -> None:
        """Take a transport in; the older one of its client id is thrown out, as MQTT does."""
        with self.lock:
            older = self._members.get(member.client_id)
            if older is not None:
                older.kill()
            self._members[member.client_id] = member
            if self.is_running:
                member.come_online()

    def leave(self, member: "LoopbackTransport", will: Outgoing | None) -> None:
        """Let a transport go and publish its last will, if it left without a word."""
        with self.lock:
            if self._members.get(member.client_id) is member:
                del self._members[member.client_id]
                if will is not None and self.is_running:
                    self.route(will)

    def route(self, message: Outgoing) -> None:
        """Keep a message if it is retained, and deliver it: to each subscriber, and to one member of each group."""
        if message.is_retained:
            self._retained[message.topic] = message
            if not message.payload:
                del self._retained[message.topic]
        plain: list[LoopbackTransport] = []
        sharing: dict[Subscription, list[LoopbackTransport]] = {}
        for member in self._members.values():
            if not member.is_connected:
                continue
            for subscription in member.matching(message.topic):
                if subscription.group is not None:
                    sharing.setdefault(subscription, []).append(member)
                elif member not in plain:
                    plain.append(member)
        shared = (self._choose(subscription, members) for subscription, members in sharing.items())
        for member in dict.fromkeys([*plain, *shared]):
            member.take(message)

    def retained(self, subscription: Subscription) -> list[Outgoing]:
        """Give the retained messages that a new subscription brings; a shared one brings none."""
        is_plain = subscription.group is None
        return [m for m in self._retained.values() if is_plain and matches(subscription.topic, m.topic)]

    def _choose(self, subscription: Subscription, members: list["LoopbackTransport"]) -> "LoopbackTransport":
        turn = next(self._turns.setdefault(subscription, itertools.count()))
        return members[turn % len(members)]


class LoopbackTransport(Transport):
    """The contract of ``Transport`` on a ``LoopbackBroker``."""

    def __init__(
        self,
        broker: LoopbackBroker,
        *,
        client_id: str,
        presence: Presence | None = None,
        max_outbox: int = 1024,
    ) -> None:
        """Prepare without joining.

        Args:
            broker: Whom to join on entering.
            client_id: Unique at the broker.
            presence: The retained status to keep true.
            max_outbox: Messages kept while the broker is stopped.
        """
        self.client_id = client_id
        self._broker = broker
        self._presence = presence
        self._routes = Routes()
        self._outbox = Outbox(max_outbox, broker.max_packet_bytes)
        self._online = threading.Event()
        self._connections = 0

    def __enter__(self) -> Self:
        """Join the broker."""
        self._broker.join(self)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Say stopped, leave the broker and close the inboxes."""
        with self._broker.lock:
            if self.is_connected and self._presence is not None:
                self._broker.route(announcement(self._presence.topic, self._presence.stopped()))
            self._leave(will=None)
        for inbox in self._routes.inboxes():
            inbox.close()

    @property
    def is_connected(self) -> bool:
        """Whether the broker runs and has taken this transport in."""
        return self._online.is_set()

    def wait_connected(self, timeout: float) -> bool:
        """Wait until connected; False when that took longer than ``timeout`` seconds."""
        return self._online.wait(timeout)

    def subscribe(self, topic: str, inbox: Inbox, *, group: str | None = None) -> None:
        """Bring what is published on ``topic`` into ``inbox`` (see ``Transport``)."""
        with self._broker.lock:
            subscription = Subscription(topic, group)
            self._routes.add(subscription, inbox)
            if self.is_connected:
                self._take_retained(subscription)

    def unsubscribe(self, topic: str) -> None:
        """Bring nothing more of a filter (see ``Transport``)."""
        with self._broker.lock:
            self._routes.remove(topic)

    def publish(
        self, topic: str, payload: bytes, *, qos: int = 1, is_retained: bool = False, expiry_s: float | None = None
    ) -> None:
        """Deliver a message now, or keep it in the bounded outbox until the broker runs (see ``Transport``)."""
        message = Outgoing.made(topic, payload, qos=qos, is_retained=is_retained, expiry_s=expiry_s)
        with self._broker.lock:
            self._outbox.append(message)
            self._flush()

    def counters(self) -> dict[str, int]:
        """Count what happened (see ``Transport``)."""
        with self._broker.lock:
            counts = self._outbox.counts + self._routes.counts + self._routes.drops()
            counts["connections"] = min(1, self._connections)
            counts["reconnects"] = max(0, self._connections - 1)
            return dict(+counts)

    def kill(self) -> None:
        """Vanish without a word, as a process that is killed."""
        with self._broker.lock:
            will = None if self._presence is None else announcement(self._presence.topic, self._presence.gone)
            self._leave(will)

    def come_online(self) -> None:
        """Take retained messages, say online and send what waited; for the broker, under its lock."""
        self._online.set()
        self._connections += 1
        for subscription in self._routes.subscriptions:
            self._take_retained(subscription)
        if self._presence is not None:
            self._broker.route(announcement(self._presence.topic, self._presence.online()))
        self._flush()

    def come_offline(self) -> None:
        """Lose the connection; for the broker, under its lock."""
        self._online.clear()

    def matching(self, topic: str) -> list[Subscription]:
        """Give the subscriptions that a topic falls under; for the broker."""
        return [subscription for subscription in self._routes.subscriptions if matches(subscription.topic, topic)]

    def take(self, message: Outgoing) -> None:
        """Take a delivery; for the broker."""
        self._routes.dispatch(message.topic, message.payload)

    def _take_retained(self, subscription: Subscription) -> None:
        for message in self._broker.retained(subscription):
            self.take(message)

    def _flush(self) -> None:
        while self.is_connected and (message := self._outbox.take()) is not None:
            self._outbox.counts["sent"] += 1
            self._broker.route(message)

    def _leave(self, will: Outgoing | None) -> None:
        self._outbox.is_closed = True
        self._online.clear()
        self._broker.leave(self, will)
