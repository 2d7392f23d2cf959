"""Decisions about a broker, without I/O: which MQTT version to try, how long to wait, who yields an id."""

import random
from typing import Literal

from paho.mqtt.enums import MQTTProtocolVersion

_FIRST_DELAY_S = 0.1
_MAX_DELAY_S = 3.0
_SETTLED_AFTER_S = 5.0
_BRIEF_S = 1.0
_MAX_BRIEF_LINKS = 3


class Versions:
    """The MQTT version to try next: 5 first, 3.1.1 where the broker cannot.

    A connection closed before CONNACK counts against version 5 only until a broker has spoken it: a restarting
    Mosquitto must not cost us shared subscriptions and message expiry.
    """

    def __init__(self, wanted: Literal["auto", "5", "3.1.1"]) -> None:
        self._wanted = wanted
        self._has_spoken_v5 = False
        self._is_fallback = False

    @property
    def current(self) -> MQTTProtocolVersion:
        """What the next CONNECT says."""
        is_v5 = self._wanted == "5" or (self._wanted == "auto" and not self._is_fallback)
        return MQTTProtocolVersion.MQTTv5 if is_v5 else MQTTProtocolVersion.MQTTv311

    def accepted(self) -> None:
        """Note a successful CONNACK; the next connection tries the better version again."""
        self._has_spoken_v5 |= self.current == MQTTProtocolVersion.MQTTv5
        self._is_fallback = False

    def refused(self) -> bool:
        """Note that the broker does not speak it; True when there is another version to try at once."""
        self._is_fallback = self._wanted == "auto" and not self._is_fallback
        return self._is_fallback

    def closed_early(self) -> bool:
        """Note a connection closed before CONNACK; True when it is worth trying another version at once."""
        self._is_fallback = self._wanted == "auto" and not self._is_fallback and not self._has_spoken_v5
        return self._is_fallback


class Backoff:
    """Exponential waits between connection attempts, with jitter so that a fleet does not return in step."""

    def __init__(self) -> None:
        self._attempts = 0

    def next_s(self) -> float:
        """Give the next wait, between half and the whole of a doubling delay."""
        delay_s = min(_MAX_DELAY_S, _FIRST_DELAY_S * 2.0 ** min(self._attempts, 16))
        self._attempts += 1
        return delay_s * random.uniform(0.5, 1.0)  # noqa: S311 - jitter is no secret

    def reset(self) -> None:
        """Start over: a connection has held."""
        self._attempts = 0


class Tenure:
    """Decides who stops when two processes use one client id: the newcomer.

    MQTT throws the older connection out, and each return throws the other out again. So whoever was online for a while
    comes back, and whoever has just come and is thrown out stops. MQTT 5 names the reason; under 3.1.1 three
    connections in a row that are accepted and closed within a second, with the broker there all the time, count as it.
    """

    def __init__(self) -> None:
        self._first_online: float | None = None
        self._online_since: float | None = None
        self._brief_links = 0

    def came_online(self, now: float) -> None:
        """Note that a connection is in full use."""
        self._first_online = now if self._first_online is None else self._first_online
        self._online_since = now

    def has_other_cause(self) -> None:
        """Note a failed attempt or a suspect message: then closed connections say nothing about the id."""
        self._brief_links = 0

    def has_held(self, now: float) -> bool:
        """Whether the connection just lost was more than a moment."""
        return self._online_since is not None and now - self._online_since > _BRIEF_S

    def must_yield(self, now: float, *, is_taken_over: bool) -> bool:
        """Whether a lost connection means that this process is the newcomer."""
        is_brief = self._online_since is not None and not self.has_held(now)
        self._brief_links = self._brief_links + 1 if is_brief else 0
        self._online_since = None
        if self._first_online is not None and now - self._first_online > _SETTLED_AFTER_S:
            return False
        return is_taken_over or self._brief_links >= _MAX_BRIEF_LINKS
