"""The processes of a benchmark, and what passes on their pipes: JSON lines."""

import msgspec

from common.types import Tier


class Drive(msgspec.Struct, frozen=True, kw_only=True, tag="drive"):
    """A contestant that takes turns; dimee's own settings come by the environment."""

    contestant: str
    bundle: str
    policy: str
    http_port: int = 0
    broker_port: int = 0
    tier: Tier = Tier.DEVICE  # of a contestant that brings its own tiers
    texts: tuple[str, ...] = ()  # that turns will ask, where they are to be prepared


class Serve(msgspec.Struct, frozen=True, kw_only=True, tag="serve"):
    """The full model over HTTP."""

    bundle: str
    port: int
    workers: int
    max_batch: int


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """What lies between two machines; 0 megabits per second is no limit."""

    delay_ms: float = 0.0  # each way
    up_mbit: float = 0.0  # from who connects to who listens
    down_mbit: float = 0.0


class Shape(msgspec.Struct, frozen=True, kw_only=True, tag="shape"):
    """A link to somebody who listens; each line on stdin is another ``Link`` from then on."""

    host: str
    port: int


class Shaped(msgspec.Struct, frozen=True, kw_only=True):
    """Where a shaped link listens."""

    port: int


class Crowd(msgspec.Struct, frozen=True, kw_only=True, tag="crowd"):
    """Light devices that send what a bundle's device would."""

    host: str
    port: int
    site: str
    bundle: str
    policy: str
    texts: tuple[str, ...]


class Gather(msgspec.Struct, frozen=True, kw_only=True, tag="gather"):
    """So many light devices, connected instead of those before; said back when they are."""

    devices: int


class Flow(msgspec.Struct, frozen=True, kw_only=True, tag="flow"):
    """Requests of the devices in turn: at random at a rate, or in a closed loop."""

    seconds: float
    most: int  # requests
    rate_hz: float | None = None  # mean of Poisson arrivals; None: a closed loop
    in_flight: int = 64  # of a closed loop
    tokens: int | None = None  # of each request; None: as its text has them
    seed: int  # of the arrivals; also makes the request ids, so no two steps of one site share it


CrowdOrder = Gather | Flow


class Flowed(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a step's requests."""

    sent: int
    answered: int
    refused: dict[str, int]  # by the failure's code
    unanswered: int  # nothing came back within the budget
    unsent: int  # the sender's own outbox was full
    elapsed_s: float  # from the first arrival to the last answer
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None


Part = Drive | Serve | Shape | Crowd


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """Texts to answer: in a closed loop with so many in flight, or as they arrive at random at a rate."""

    texts: tuple[str, ...]
    seconds: float | None = None  # for which they are asked, over and over; None: each of them once
    in_flight: int = 1
    rate_hz: float | None = None  # mean of Poisson arrivals; a latency then counts from the arrival
    seed: int = 0


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """How one text was answered; what a contestant cannot tell stays at its default."""

    latency_ms: float = 0.0
    tier: Tier | None = None
    layer: int = 0
    compute_ms: float = 0.0
    sent_bytes: int = 0


class Turned(msgspec.Struct, frozen=True, kw_only=True):
    """A turn's answers, in the order in which they were asked for."""

    answers: tuple[Told, ...]
    elapsed_s: float  # from the first text to the last answer, and to the last receipt where a log is kept


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """A contestant's process can take turns."""

    first_answer_s: float  # since the process was started
    resident_mb: float
