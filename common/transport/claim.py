"""Who has the right to a client id when two processes use it: the one that was there first.

MQTT throws the older connection out, and each return throws the other out again; Mosquitto 2.0 does not even say why.
So each process leaves a token, retained, beside its status. Whoever comes back and finds another's token in place of
its own has a rival: a settled process takes the id back, a newcomer stops. Nothing else looks like this: after a cut
link one's own token is still there, and after a broker's restart none is.
"""

import secrets

from common.transport.contract import Delivery, Inbox
from common.wire.topics import claim_of

_SETTLED_AFTER_S = 10.0  # online that long before the first sign of a rival
_FORGOTTEN_AFTER_S = 60.0  # without another sign
_ENOUGH_SIGHTINGS = 2  # one may be an old token from a broker's backup


class Claim(Inbox):
    """The token of this process, and the tokens of others that took its place."""

    def __init__(self, status_topic: str) -> None:
        super().__init__(max_deliveries=1)
        self.topic = claim_of(status_topic)
        self.token = secrets.token_hex(8).encode()
        self.sightings = 0
        self._is_ours = False  # the broker showed us our own token, so another one came after it

    def put(self, delivery: Delivery) -> bool:
        """Look at a token; nothing is queued."""
        if delivery.payload == self.token:
            self._is_ours = True
        elif delivery.payload and self._is_ours:
            self._is_ours = False
            self.sightings += 1
        return True


class Tenure:
    """How long this process has used its id, and whether it must give it up."""

    def __init__(self) -> None:
        self._first_online: float | None = None
        self._last_sighting: float | None = None
        self._sightings = 0
        self._is_newcomer = False

    def came_online(self, now: float) -> None:
        """Note that a connection is in full use."""
        self._first_online = now if self._first_online is None else self._first_online

    def was_thrown_out(self, now: float) -> bool:
        """Note that the broker said so; True when this process must stop."""
        return self._is_young(now)

    def saw_rival(self, now: float) -> bool:
        """Note another's token in place of ours; True when this process must stop."""
        if self._last_sighting is None or now - self._last_sighting > _FORGOTTEN_AFTER_S:
            self._sightings, self._is_newcomer = 0, self._is_young(now)
        self._sightings += 1
        self._last_sighting = now
        return self._is_newcomer and self._sightings >= _ENOUGH_SIGHTINGS

    def _is_young(self, now: float) -> bool:
        return self._first_online is None or now - self._first_online <= _SETTLED_AFTER_S
