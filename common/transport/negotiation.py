"""Decisions about a broker, without I/O: which MQTT version to try, and how long to wait."""

import random
from typing import Literal

from paho.mqtt.enums import MQTTProtocolVersion

_FIRST_DELAY_S = 0.1
_MAX_DELAY_S = 3.0


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
