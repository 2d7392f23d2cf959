"""The words that every part of dimee speaks: tiers, pools, spans, hops, answers and records.

Records are frozen structs, the same in memory and on the wire; a field is only ever added at the end, with a default.
"""

from enum import StrEnum
from typing import Annotated, Literal, Self

import msgspec

Name = Annotated[str, msgspec.Meta(pattern=r"^[^+#/\x00]{1,64}$")]  # can stand as one level of a topic
RequestId = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
NonNegative = Annotated[float, msgspec.Meta(ge=0, le=3e38)]  # fits single precision
Finite = Annotated[float, msgspec.Meta(ge=-3e38, le=3e38)]  # the same; also refuses NaN
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]  # fits every column and every JSON reader
Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]


class Tier(StrEnum):
    """A place where layers run, from near to far."""

    DEVICE = "device"
    EDGE = "edge"
    CLOUD = "cloud"


TIERS = tuple(Tier)


class Pool(StrEnum):
    """How difficult an input looks before any layer has run."""

    EASY = "easy"
    MODERATE = "moderate"
    HARD = "hard"


POOLS = tuple(Pool)


class Reason(StrEnum):
    """Why an answer was given."""

    CONFIDENT = "confident"  # an exit head was sure enough
    FINAL = "final"  # the last exit head of the route has the last word
    DEGRADED = "degraded"  # the budget ran out or a tier failed: the device's own exit answered
    FAILED = "failed"  # no tier could answer


class Signature(StrEnum):
    """What became of the signature that a device needed."""

    VERIFIED = "verified"  # the tier that answered has signed it
    REFUSED = "refused"  # an outcome came without a good one; the answer is the device's own


class Hop(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One tier's part in a request, on that tier's own clock."""

    tier: Tier
    node: Name
    start: Count  # span of layers run, [start, end)
    end: Count
    queue_ms: NonNegative  # waiting, also for those that were taken with it
    compute_ms: NonNegative  # in its own layers
    received_bytes: Count = 0  # hidden states as they came in; 0 where the request began
    confidence: Fraction = 0.0  # at the exit head after layer ``end``
    predictions: tuple[Count, ...] = ()  # class index at each exit head passed, in order
    confidences: tuple[Fraction, ...] = ()  # calibrated top probability at each of them
    variant: Annotated[str, msgspec.Meta(max_length=64)] = ""  # revision that ran, where it is not the request's own
    codec: str = ""  # of the hidden states as they came in; empty where the request began
    received_tokens: Count = 0  # in them
    received_width: Count = 0  # dimensions per token in them: the budget of a thin link, or all of the model's

    def __post_init__(self) -> None:
        if self.end < self.start:
            raise ValueError(f"hop span [{self.start}, {self.end}) runs backwards")


class Answer(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What the caller gets: exactly one per accepted request."""

    request_id: RequestId
    device_id: Name
    model_revision: str
    reason: Reason
    label: str | None  # None only when the reason is ``failed``
    confidence: Fraction
    exit_layer: Count  # backbone layers behind the answer
    exit_tier: Tier
    entry_tier: Tier
    total_ms: NonNegative  # from acceptance to answer, on the device's clock
    threshold: Fraction | None = None  # in force at the exit that answered
    pool: Pool | None = None
    distances: tuple[Finite, ...] = ()  # to the centroids of easy, moderate, hard
    detail: str = ""  # why it is degraded or failed
    is_truncated: bool = False
    tokens: Count = 0
    payload_bytes: Count = 0  # hidden-state messages sent for it, all links and attempts
    cost: NonNegative = 0.0  # in layers of the device, under ``cost_model``
    cost_model: str = ""
    hops: tuple[Hop, ...] = ()
    attempts: Count = 0  # messages that left the device for it
    signature: Signature | None = None  # None: nobody asked, or nobody else answered
    trace_id: str = ""  # 32 hexadecimal digits, W3C Trace Context; empty outside any trace

    @property
    def queue_ms(self) -> float:
        """Time spent waiting in the tiers' inboxes."""
        return sum(hop.queue_ms for hop in self.hops)

    @property
    def compute_ms(self) -> float:
        """Time spent computing, all tiers together."""
        return sum(hop.compute_ms for hop in self.hops)

    @property
    def network_ms(self) -> float:
        """What is neither queue nor compute: links, broker, codecs and threads."""
        return max(0.0, self.total_ms - self.queue_ms - self.compute_ms)


class Race(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """The device's own exit against another tier: the answer is the winner's, this is what the loser said."""

    loser_tier: Tier | None = None  # None: it has said nothing yet
    loser_label: str | None = None
    loser_confidence: Fraction | None = None


class Record(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A finished request as the log keeps it."""

    answer: Answer
    created_at: NonNegative  # seconds since the epoch, by the device's wall clock
    text: str | None = None  # only where the configuration allows it
    true_label: str | None = None
    race: Race | None = None  # None: nobody else was asked


class Span(msgspec.Struct, frozen=True, array_like=True):
    """Consecutive backbone layers [start, end)."""

    start: Count
    end: Count

    def __post_init__(self) -> None:
        if self.end <= self.start:
            raise ValueError(f"span [{self.start}, {self.end}) holds no layer")

    @property
    def num_layers(self) -> int:
        """How many layers it holds."""
        return self.end - self.start


class Depths(msgspec.Struct, frozen=True, kw_only=True):
    """How deep each tier can go: the split points m and n, and the backbone's L."""

    device: Annotated[int, msgspec.Meta(ge=1)]
    edge: Annotated[int, msgspec.Meta(ge=1)]
    cloud: Annotated[int, msgspec.Meta(ge=1)]

    def __post_init__(self) -> None:
        if not self.device < self.edge < self.cloud:
            raise ValueError(f"depths must grow from tier to tier, got {self.device}, {self.edge}, {self.cloud}")

    def of(self, tier: Tier) -> int:
        """Give the number of layers held from the first one up to ``tier``."""
        match tier:
            case Tier.DEVICE:
                return self.device
            case Tier.EDGE:
                return self.edge
            case Tier.CLOUD:
                return self.cloud

    def tier_of(self, layer: int) -> Tier:
        """Name the nearest tier that reaches ``layer``."""
        return next((tier for tier in TIERS if layer <= self.of(tier)), Tier.CLOUD)


class NodeStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What a node says of itself, retained at the broker; its last will says ``offline``."""

    state: Literal["online", "stopped", "offline"]
    tier: Tier
    node: Name
    model_revision: str = ""
    counters: dict[str, int] = {}
    tier_key: str = ""  # of a sealed channel: what devices seal to, a certificate in base64
    revisions: Annotated[tuple[str, ...], msgspec.Meta(max_length=8)] = ()  # all that it serves, the newest first
    update: Annotated[str, msgspec.Meta(max_length=200)] = ""  # how an update stands, in words; empty without one
    provider: Annotated[str, msgspec.Meta(max_length=64)] = ""  # onnxruntime's that runs its layers, as far as it can

    @property
    def served(self) -> tuple[str, ...]:
        """Every revision that the node answers for."""
        return self.revisions or (self.model_revision,)

    def gone(self) -> Self:
        """Give the status that the broker publishes when the node vanishes."""
        return msgspec.structs.replace(self, state="offline", counters={}, revisions=(), update="")
