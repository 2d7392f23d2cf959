"""Which inbox a topic goes to."""

import time
from collections import Counter
from typing import NamedTuple

from common.transport.contract import Delivery, Inbox


class Subscription(NamedTuple):
    """A topic filter and the group that shares it, if any."""

    topic: str
    group: str | None


class Routes:
    """The subscriptions of one transport, and the way from a topic to inboxes."""

    def __init__(self) -> None:
        self.subscriptions: dict[Subscription, None] = {}  # in order, each once
        self.counts: Counter[str] = Counter()
        self._exact: dict[str, list[Inbox]] = {}
        self._wild: dict[str, list[Inbox]] = {}

    def add(self, subscription: Subscription, inbox: Inbox) -> None:
        """Send what matches to ``inbox`` as well.

        Raises:
            ValueError: It is no topic filter.
        """
        _check(subscription)
        self.subscriptions[subscription] = None
        routes = self._wild if is_wild(subscription.topic) else self._exact
        inboxes = routes.setdefault(subscription.topic, [])
        if inbox not in inboxes:
            inboxes.append(inbox)

    def remove(self, topic: str) -> None:
        """Send nothing more of a filter to anybody."""
        self.subscriptions.pop(Subscription(topic, None), None)
        (self._wild if is_wild(topic) else self._exact).pop(topic, None)

    def dispatch(self, topic: str, payload: bytes) -> None:
        """Put a message into every inbox whose subscription matches."""
        self.counts["received"] += 1
        delivery = Delivery(topic, payload, time.monotonic())
        inboxes = self._exact.get(topic, ())
        for inbox in inboxes:
            inbox.put(delivery)
        is_routed = bool(inboxes)
        for pattern, wild_inboxes in self._wild.items():
            if matches(pattern, topic):
                is_routed = True
                for inbox in wild_inboxes:
                    inbox.put(delivery)
        if not is_routed:
            self.counts["dropped_unrouted"] += 1

    def inboxes(self) -> list[Inbox]:
        """Every inbox, once."""
        return list(
            dict.fromkeys(i for routes in (self._exact, self._wild) for found in routes.values() for i in found)
        )

    def drops(self) -> Counter[str]:
        """What the inboxes dropped, by reason."""
        total: Counter[str] = Counter()
        for inbox in self.inboxes():
            total.update({f"dropped_{reason}": count for reason, count in inbox.dropped.items()})
        return total


def is_wild(topic: str) -> bool:
    """Whether a topic filter holds a wildcard."""
    return "+" in topic or "#" in topic


def check_name(topic: str) -> None:
    """Refuse what cannot be published to.

    Raises:
        ValueError: The topic is empty, or holds a wildcard or a NUL.
    """
    if not topic or is_wild(topic) or "\0" in topic:
        raise ValueError(f"topic {topic!r} cannot be published to")


def _check(subscription: Subscription) -> None:
    levels = subscription.topic.split("/")
    is_misplaced = "#" in levels[:-1] or any(len(level) > 1 and is_wild(level) for level in levels)
    if not subscription.topic or "\0" in subscription.topic or is_misplaced:
        raise ValueError(f"{subscription.topic!r} is no topic filter")
    if subscription.group is not None and (not subscription.group or set(subscription.group) & set("/+#")):
        raise ValueError(f"{subscription.group!r} is no name for a group")


def matches(pattern: str, topic: str) -> bool:
    """Whether a topic falls under a filter (MQTT 3.1.1, section 4.7)."""
    if topic.startswith("$") and pattern[:1] in ("+", "#"):
        return False
    wanted, levels = pattern.split("/"), topic.split("/")
    for index, level in enumerate(wanted):
        if level == "#":
            return True
        if index >= len(levels) or level not in ("+", levels[index]):
            return False
    return len(wanted) == len(levels)
