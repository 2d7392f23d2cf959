"""MQTT on paho: connects, restores and stops in one thread of its own; publishing writes from the caller's thread.

paho is only touched under ``_lock``, and the lock is never held while connecting, so ``publish`` never waits for the
network. What is not acknowledged stays in our outbox and not in paho's, which has no bound and no regard for limits.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from common.config.settings import Mqtt
from common.errors import ConfigError, DimeeError, TransportError
from common.transport.attempts import Attempts
from common.transport.claim import Claim
from common.transport.contract import Inbox, Presence, Publication, refusals
from common.transport.events import Accepted, Denied, Granted, Lost, Refused
from common.transport.link import HANDSHAKE_LIMIT_S, Link
from common.transport.login import announcement, login
from common.transport.outbox import Outbox, Outgoing
from common.transport.routes import Routes, Subscription

_LOGGER = logging.getLogger(__name__)
_MAX_WINDOW = 100  # messages in flight, however many the broker would take
_FAREWELL_LIMIT_S = 2.0  # how long a stop waits for the last acknowledgements


class MqttTransport:
    """A transport on one broker; enter it to connect, and it keeps connecting until it is left."""

    def __init__(
        self,
        settings: Mqtt,
        *,
        client_id: str,
        presence: Presence | None = None,
        on_fatal: Callable[[DimeeError], None] | None = None,
    ) -> None:
        """Prepare without connecting.

        Args:
            settings: The broker and the bounds.
            client_id: Unique at the broker.
            presence: The retained status to keep true.
            on_fatal: Told on the transport's thread why it gave up; it stays offline from then on.

        Raises:
            ConfigError: The password file is missing, or a password comes without a user.
        """
        self._settings = settings
        self._presence = presence
        self._on_fatal = on_fatal or _log_fatal
        self._login = login(settings, client_id, presence)
        self._lock = threading.RLock()
        self._routes = Routes()
        self._outbox = Outbox(settings.max_outbox, settings.max_packet_bytes)
        self._counts: Counter[str] = Counter()
        self._claim = None if presence is None else Claim(presence.topic)
        self._attempts = Attempts(self._login, settings.version, self._claim)
        self._link: Link | None = None  # while accepted
        self._limits: Accepted | None = None
        self._ungranted: dict[int, Subscription] = {}
        self._online = threading.Event()
        self._settled = threading.Event()  # online, or given up
        self._stopping = threading.Event()
        self._failure: DimeeError | None = None
        self._thread = threading.Thread(target=self._run, name="mqtt")
        if self._claim is not None:
            self._routes.add(Subscription(self._claim.topic, None), self._claim)

    def __enter__(self) -> Self:
        """Start to connect in the background."""
        self._thread.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Say goodbye, let the last acknowledgements come in within a limit, and close the inboxes."""
        self._stopping.set()
        with self._lock:
            self._outbox.is_closed = True
            if self._link is not None:
                self._link.wake()
        self._thread.join(2 * HANDSHAKE_LIMIT_S + _FAREWELL_LIMIT_S)
        for inbox in self._routes.inboxes():
            inbox.close()
        if len(self._outbox):
            self._counts["lost_at_stop"] += len(self._outbox)
            _LOGGER.warning("stopped with %d unacknowledged messages", len(self._outbox))

    @property
    def is_connected(self) -> bool:
        """Whether the broker acknowledged all subscriptions of the present connection."""
        return self._online.is_set()

    def wait_connected(self, timeout: float) -> bool:
        """Wait until connected; False when that took longer than ``timeout`` seconds.

        Raises:
            ConfigError: The transport gave up, e.g. because the login was refused.
        """
        self._settled.wait(timeout)
        if self._failure is not None:
            raise self._failure
        return self._online.is_set()

    def subscribe(self, topic: str, inbox: Inbox, *, group: str | None = None) -> None:
        """Bring what is published on ``topic`` into ``inbox``, now and after reconnects (see ``Transport``)."""
        with self._lock:
            subscription = Subscription(topic, group)
            self._routes.add(subscription, inbox)
            if self._link is not None:
                self._request(self._link, subscription)
                self._link.write()

    def unsubscribe(self, topic: str) -> None:
        """Bring nothing more of a filter (see ``Transport``)."""
        with self._lock:
            self._routes.remove(topic)
            if self._link is not None:
                self._link.unsubscribe(topic)
                self._link.write()

    def publish(
        self, topic: str, payload: bytes, *, qos: int = 1, is_retained: bool = False, expiry_s: float | None = None
    ) -> None:
        """Send a message, or keep it in the bounded outbox until the network takes it (see ``Transport``)."""
        message = Outgoing.made(topic, payload, qos=qos, is_retained=is_retained, expiry_s=expiry_s)
        with self._lock:
            self._outbox.append(message)
            self._flush()

    def publish_all(self, publications: Sequence[Publication]) -> list[TransportError | None]:
        """Send messages together, and say which were not taken (see ``Transport``)."""
        messages = [Outgoing.made(p.topic, p.payload, qos=p.qos, expiry_s=p.expiry_s) for p in publications]
        with self._lock:
            reasons = refusals(self._outbox.append, messages)
            self._flush()
        return reasons

    def counters(self) -> dict[str, int]:
        """Count what happened: sent, received, reconnects, and what was dropped or refused, by reason."""
        with self._lock:
            return dict(
                self._counts + self._attempts.counts + self._outbox.counts + self._routes.counts + self._routes.drops()
            )

    def gauges(self) -> dict[str, float]:
        """Measure what there is now: whether it is connected, and how much waits how long to be acknowledged."""
        with self._lock:
            return {
                "connected": float(self.is_connected),
                "outbox_messages": float(len(self._outbox)),
                "outbox_oldest_seconds": self._outbox.oldest_s,
            }

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                if not self._connect_once():
                    self._stopping.wait(self._attempts.next_wait_s())
        except DimeeError as exc:
            self._give_up(exc)
        except Exception as exc:
            _LOGGER.exception("mqtt thread crashed")
            self._give_up(TransportError(f"mqtt thread crashed: {exc!r}"))
        finally:
            self._settled.set()

    def _give_up(self, failure: DimeeError) -> None:
        with self._lock:
            self._outbox.is_closed = True
        self._failure = failure
        self._settled.set()
        self._on_fatal(failure)

    def _offline(self) -> None:
        with self._lock:
            self._online.clear()
            self._settled.clear()
            self._link = None
            self._ungranted.clear()
            self._outbox.recall()

    def _connect_once(self) -> bool:
        """Make one connection and serve it to its end; True when the next attempt need not wait."""
        link = Link(self._login, self._attempts.version, deliver=self._routes.dispatch, acknowledge=self._acknowledge)
        try:
            link.open()
        except OSError as exc:
            self._attempts.unreachable(exc)
            return False
        else:
            return self._serve(link)
        finally:
            self._offline()  # first, so that no publisher still writes to it
            link.close()

    def _serve(self, link: Link) -> bool:
        deadline = time.monotonic() + HANDSHAKE_LIMIT_S
        while not self._stopping.is_set():
            end = self._step(link, timeout=1.0)
            if end is not None:
                return self._ended(end)
            if self._link is None and time.monotonic() > deadline:
                link.lose(f"no CONNACK within {HANDSHAKE_LIMIT_S:.0f} s")
        if self._link is not None:
            self._say_goodbye(link)
        return True

    def _say_goodbye(self, link: Link) -> None:
        with self._lock:
            self._announce(is_online=False)
            self._flush()
        deadline = time.monotonic() + _FAREWELL_LIMIT_S
        while len(self._outbox) and time.monotonic() < deadline:
            if self._step(link, timeout=0.1) is not None:
                return
        with self._lock:
            link.disconnect()
            link.write()

    def _ended(self, end: Refused | Lost) -> bool:
        match end:
            case Refused():
                return self._attempts.refused(end)
            case Lost() if self._link is None:
                return self._attempts.lost_early(end)
            case Lost():
                self._attempts.lost(end)
        return False

    def _step(self, link: Link, timeout: float) -> Refused | Lost | None:
        """Wait for the network, move what can be moved, and say whether the connection has ended."""
        link.wait_readable(timeout)
        with self._lock:
            link.read()
            while link.events:
                event = link.events.popleft()
                if isinstance(event, Refused | Lost):
                    return event
                self._advance(link, event)
            self._attempts.look_for_rivals()
            link.write()
            self._flush()
        return None

    def _advance(self, link: Link, event: Accepted | Granted | Denied) -> None:
        match event:
            case Accepted():
                self._accepted(link, event)
            case Granted(packet_id):
                self._ungranted.pop(packet_id, None)
            case Denied(packet_id, reason):
                topic, group = self._ungranted[packet_id]
                raise ConfigError(
                    f"{self._login.broker} refused the subscription to {topic!r} (group {group!r}) for client id "
                    f"{self._login.client_id!r}: {reason}; allow it in the broker's access control"
                )
        if not self._ungranted and not self._online.is_set():
            self._came_online()

    def _accepted(self, link: Link, limits: Accepted) -> None:
        self._link, self._limits = link, limits
        self._attempts.accepted()
        self._outbox.max_packet_bytes = min(self._settings.max_packet_bytes, limits.max_packet_bytes)
        for subscription in self._routes.subscriptions:
            self._request(link, subscription)

    def _request(self, link: Link, subscription: Subscription) -> None:
        has_groups = self._limits is not None and self._limits.has_groups
        packet_id = link.subscribe(subscription, has_groups=has_groups)
        if packet_id is not None:
            self._ungranted[packet_id] = subscription
        broker, (topic, group) = self._login.broker, subscription
        if group and not has_groups:
            _LOGGER.warning("%s has no shared subscriptions: each of %s gets all of %s", broker, group, topic)

    def _came_online(self) -> None:
        self._attempts.came_online()
        self._announce(is_online=True)
        self._online.set()
        self._settled.set()

    def _announce(self, *, is_online: bool) -> None:
        if self._presence is not None and self._claim is not None:
            status = self._presence.online() if is_online else self._presence.stopped()
            self._outbox.put_first(announcement(self._presence.topic, status))
            self._outbox.put_first(announcement(self._claim.topic, self._claim.token if is_online else b""))

    def _flush(self) -> None:
        if self._link is not None and self._limits is not None and self._online.is_set():
            self._link.flush(self._outbox, min(_MAX_WINDOW, self._limits.max_in_flight))

    def _acknowledge(self, packet_id: int, refusal: str | None) -> None:
        message = self._outbox.acknowledged(packet_id)
        if refusal is not None and message is not None:
            self._counts["refused_by_broker"] += 1
            _LOGGER.warning("%s refused a message for %s: %s", self._login.broker, message.topic, refusal)


def _log_fatal(failure: DimeeError) -> None:
    _LOGGER.error("gave up: %s", failure)
