"""What follows when a connection or an attempt at one ends: try at once, wait, or give up."""

import logging
import time
from collections import Counter
from typing import Literal

from paho.mqtt.enums import MQTTProtocolVersion

from common.errors import ConfigError
from common.transport.claim import Claim, Tenure
from common.transport.events import Lost, Refused
from common.transport.login import Login
from common.transport.negotiation import Backoff, Versions

_LOGGER = logging.getLogger(__name__)
_HELD_AFTER_S = 1.0  # a connection that held so long lets the waits start over
_VERSION_UNSUPPORTED = 0x84
_FATAL_REFUSALS = frozenset({0x85, 0x86, 0x87, 0x8A, 0x8C})  # client id, login, not authorised, banned, auth method


class Attempts:
    """The history of one transport's connections, used by its thread alone."""

    def __init__(self, login: Login, wanted: Literal["auto", "5", "3.1.1"], claim: Claim | None) -> None:
        self.counts: Counter[str] = Counter()
        self._login = login
        self._wanted = wanted
        self._claim = claim
        self._sightings = 0
        self._online_since: float | None = None
        self._versions = Versions(wanted)
        self._backoff = Backoff()
        self._tenure = Tenure()
        self._complaint = ""

    @property
    def version(self) -> MQTTProtocolVersion:
        """The MQTT version of the next attempt."""
        return self._versions.current

    def next_wait_s(self) -> float:
        """Seconds to wait before the next attempt; longer each time until a connection has held."""
        return self._backoff.next_s()

    def accepted(self) -> None:
        """Note a successful CONNACK."""
        self._versions.accepted()

    def came_online(self) -> None:
        """Note a connection in full use."""
        self._complaint = ""
        self.counts["reconnects" if self.counts["connections"] else "connections"] += 1
        self._online_since = time.monotonic()
        self._tenure.came_online(self._online_since)
        _LOGGER.info("connected to %s as %s", self._login.broker, self._login.client_id)

    def unreachable(self, error: OSError) -> None:
        """Note that nobody answered."""
        self._complain(str(error))

    def refused(self, refusal: Refused) -> bool:
        """Note a CONNACK with a failure; True when another version may be tried at once.

        Raises:
            ConfigError: Trying again would not help.
        """
        login = self._login
        if refusal.code == _VERSION_UNSUPPORTED:
            if self._versions.refused():
                return True
            raise ConfigError(f"{login.broker} does not speak MQTT {self._wanted} (mqtt.version)")
        if refusal.code in _FATAL_REFUSALS:
            raise ConfigError(
                f"{login.broker} refused user {login.username!r} with client id {login.client_id!r}: {refusal.reason}; "
                "check mqtt.username and mqtt.password_file, and the broker's users and access control"
            )
        self._complain(f"refused for now: {refusal.reason}")
        return False

    def lost_early(self, loss: Lost) -> bool:
        """Note a connection that closed before CONNACK; True when another version may be tried at once."""
        self._complain(f"closed before it answered: {loss.reason}")
        return self._versions.closed_early()

    def lost(self, loss: Lost) -> None:
        """Note the loss of a connection.

        Raises:
            ConfigError: The broker gave the client id to another process, and this one is the newcomer.
        """
        now = time.monotonic()
        if self._online_since is not None and now - self._online_since > _HELD_AFTER_S:
            self._backoff.reset()
        self._online_since = None
        if loss.is_taken_over and self._tenure.was_thrown_out(now):
            raise self._yielding()
        self.counts["losses"] += 1
        _LOGGER.warning("lost %s: %s; reconnecting", self._login.broker, loss.reason)

    def look_for_rivals(self) -> None:
        """See whether another process took the client id in the meantime.

        Raises:
            ConfigError: It did, and this one is the newcomer.
        """
        if self._claim is None or self._claim.sightings == self._sightings:
            return
        self._sightings = self._claim.sightings
        self.counts["rivals"] += 1
        if self._tenure.saw_rival(time.monotonic()):
            raise self._yielding()
        _LOGGER.warning("another process connects to %s as %s", self._login.broker, self._login.client_id)

    def _yielding(self) -> ConfigError:
        return ConfigError(
            f"client id {self._login.client_id!r} is in use at {self._login.broker} by another process, "
            "which was there first; stop one of the two, or give this one another node.id"
        )

    def _complain(self, complaint: str) -> None:
        """Warn once per cause: the attempts go on for as long as it lasts."""
        level = logging.DEBUG if complaint == self._complaint else logging.WARNING
        self._complaint = complaint
        _LOGGER.log(
            level,
            "no connection to %s: %s; trying on; is the broker running, and are mqtt.host and mqtt.port right?%s",
            self._login.broker,
            complaint,
            " Does it speak TLS there, and accept mqtt.tls_certificate_file?" if self._login.tls else "",
        )
