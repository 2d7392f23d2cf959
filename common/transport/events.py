"""What happens to a connection, as far as its transport must act."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """The broker took us in, with these limits."""

    max_packet_bytes: int
    max_in_flight: int
    has_groups: bool


@dataclass(frozen=True, slots=True)
class Refused:
    """The broker answered CONNECT with a failure."""

    code: int  # of MQTT 5; paho translates those of 3.1.1
    reason: str


@dataclass(frozen=True, slots=True)
class Granted:
    """A subscription is in force."""

    packet_id: int


@dataclass(frozen=True, slots=True)
class Denied:
    """A subscription was refused."""

    packet_id: int
    reason: str


@dataclass(frozen=True, slots=True)
class Lost:
    """The connection is gone."""

    reason: str
    is_taken_over: bool  # by another connection with this client id, if the broker says so (MQTT 5)


Event = Accepted | Refused | Granted | Denied | Lost
