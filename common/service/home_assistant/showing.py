"""Keeps a node's discovery document and figures at the broker, and both anew whenever Home Assistant starts."""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Self

from common.config.settings import AnySettings
from common.errors import TransportError, WireError
from common.service.home_assistant.discovery import OWN, check_names, discovery_document
from common.service.presence import Standing
from common.service.steering import OperatingPoints
from common.service.telemetry.recent import RecentMeter
from common.service.telemetry.telemetry import Telemetry
from common.transport.contract import Delivery, Inbox, Transport
from common.types import Tier
from common.wire.documents import Figures, decode_status, encode_document
from common.wire.topics import Topics

_LOGGER = logging.getLogger(__name__)
_QUEUES = {  # where each tier measures what waits: part and gauge
    Tier.DEVICE: ("requests", "in_flight"),
    Tier.EDGE: ("inference", "inbox_messages"),
    Tier.CLOUD: ("inference", "inbox_messages"),
}


def open_showing(
    settings: AnySettings,
    tier: Tier,
    transport: Transport,
    *,
    standing: Standing,
    telemetry: Telemetry,
    points: OperatingPoints | None = None,
) -> AbstractContextManager[object]:
    """Prepare to show a node in Home Assistant, where that is wanted; before its parts take ``telemetry.meter``.

    Raises:
        ConfigError: The node's or the site's name cannot stand in Home Assistant's topics.
    """
    topics = Topics(settings.mqtt.site)
    if not settings.home_assistant.is_enabled:
        hiding = Hiding(transport, topics, tier, settings.node.id)
        transport.subscribe(topics.figures(tier, settings.node.id), hiding)
        return hiding
    check_names(settings.mqtt.site, settings.node.id)
    telemetry.meter = recent = RecentMeter(tier, telemetry.meter)
    return Showing(
        transport,
        topics,
        tier,
        settings.node.id,
        standing=standing,
        recent=recent,
        waiting=lambda: telemetry.gauge(*_QUEUES[tier]),
        points=points,
        every_s=settings.home_assistant.every_s,
    )


class Hiding(Inbox):
    """Takes a node out of Home Assistant that was shown there before: figures of then still lie at the broker."""

    def __init__(self, transport: Transport, topics: Topics, tier: Tier, node: str) -> None:
        super().__init__(1)
        self._transport = transport
        self._stale = (topics.discovery(tier, node), topics.figures(tier, node))
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is not None:
            self._thread.join()

    def put(self, delivery: Delivery) -> bool:
        """Clear what is retained, on a thread of its own, for this one is the transport's."""
        if delivery.payload and self._thread is None:
            self._thread = threading.Thread(target=self._hide, name="home-assistant")
            self._thread.start()
        return True

    def _hide(self) -> None:
        try:
            for topic in self._stale:
                self._transport.publish(topic, b"", is_retained=True)
        except TransportError as exc:
            _LOGGER.warning("this node still stands in Home Assistant: %s", exc)


class Showing:
    """A thread that publishes on time, and at once when Home Assistant, the broker or an operator gives cause."""

    def __init__(
        self,
        transport: Transport,
        topics: Topics,
        tier: Tier,
        node: str,
        *,
        standing: Standing,
        recent: RecentMeter,
        waiting: Callable[[], float],
        points: OperatingPoints | None,
        every_s: float,
    ) -> None:
        self._transport = transport
        self._topics = topics
        self._tier = tier
        self._node = node
        self._standing = standing
        self._recent = recent
        self._waiting = waiting
        self._points = points
        self._every_s = every_s
        self._shown = b""  # the discovery document
        self._inbox = Inbox(64)
        self._thread = threading.Thread(target=self._run, name="home-assistant")
        transport.subscribe(topics.home_assistant, self._inbox)
        transport.subscribe(topics.status(tier, node), self._inbox)  # comes with every connection
        if points is not None:
            points.on_point = self._wake

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._inbox.close()
        self._thread.join()

    def _wake(self) -> None:
        self._inbox.put(Delivery(self._topics.operating_point, b"", time.monotonic()))

    def _run(self) -> None:
        while not self._inbox.is_drained:
            delivery = self._inbox.get(self._every_s)
            if delivery is not None and self._is_birth(delivery):
                self._shown = b""
            self._show()

    def _is_birth(self, delivery: Delivery) -> bool:
        """Say whether Home Assistant has begun to listen, or a broker that may have forgotten what was retained."""
        if delivery.topic == self._topics.home_assistant:
            return delivery.payload == b"online"
        try:
            return delivery.topic != self._topics.operating_point and decode_status(delivery.payload).state == "online"
        except WireError:
            return False

    def _show(self) -> None:
        """Publish the figures, and the document when it has changed."""
        if not self._transport.is_connected:
            return
        model = None if self._points is None else self._points.model_of(self._standing.revision)
        document = encode_document(
            discovery_document(
                self._tier,
                self._node,
                self._topics,
                revision=self._standing.revision,
                policies=() if model is None else model.policies,
            )
        )
        try:
            if document != self._shown:
                self._transport.publish(self._topics.discovery(self._tier, self._node), document, is_retained=True)
                self._shown = document
            figures = encode_document(self._figures())
            self._transport.publish(self._topics.figures(self._tier, self._node), figures, is_retained=True)
        except TransportError as exc:
            _LOGGER.debug("home assistant is told later: %s", exc)

    def _figures(self) -> Figures:
        return Figures(
            revision=self._standing.revision,
            exit_share=self._recent.exit_share(),
            latency_ms=self._recent.latency_ms(),
            queue=round(self._waiting()),
            operating_point=self._policy_in_effect(),
        )

    def _policy_in_effect(self) -> str | None:
        model = None if self._points is None else self._points.model_of(self._standing.revision)
        if model is None or model.point is None:
            return OWN
        return None if model.point.thresholds else model.point.policy
