"""The messages between tiers, version 1: positional msgpack arrays.

The major version stands in the topic. A field is only ever added at the end, with a default; an older peer ignores it.
"""

from typing import Annotated, Literal

import msgspec

from common.types import Count, Finite, Fraction, Hop, Name, NonNegative, Reason, Record, RequestId

MAX_HOPS = 8
FailureCode = Literal[
    "model_mismatch", "bad_message", "expired", "overloaded", "internal", "record_refused", "unsigned"
]


class Tensor(msgspec.Struct, frozen=True, array_like=True):
    """An array as it travels: little-endian, C order."""

    dtype: str
    shape: Annotated[tuple[Count, ...], msgspec.Meta(max_length=4)]
    data: bytes


class HiddenStates(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="H"):
    """The backbone's state at a split point, for the next tier to carry on; real tokens only, batch 1."""

    request_id: RequestId
    device_id: Name
    model_revision: str
    split_point: Count  # layers already run; 0 is the embedding output
    budget_ms: NonNegative  # what is left of the request's time when it leaves
    codec: str
    tensors: Annotated[tuple[Tensor, ...], msgspec.Meta(min_length=1, max_length=4)]
    hops: Annotated[tuple[Hop, ...], msgspec.Meta(max_length=MAX_HOPS)] = ()  # so far
    attempt: Count = 1
    needs_signature: bool = False  # the device takes a SignedOutcome only
    traceparent: bytes = b""  # of W3C Trace Context: trace id (16), span id (8), flags (1); left out where it is empty


class Outcome(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="O"):
    """A tier's answer to one request."""

    request_id: RequestId
    model_revision: str
    reason: Reason
    logits: Annotated[tuple[Finite, ...], msgspec.Meta(min_length=1, max_length=4096)]
    confidence: Fraction  # calibrated top softmax probability
    exit_layer: Count
    threshold: Fraction | None
    hops: Annotated[tuple[Hop, ...], msgspec.Meta(min_length=1, max_length=MAX_HOPS)]


class SignedOutcome(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="S"):
    """A tier's answer to a device that needs a signature; ``device.needs_signatures``."""

    outcome: bytes  # an Outcome, as it would travel alone
    certificate: Annotated[bytes, msgspec.Meta(max_length=8192)]  # of the answering node, DER
    signature: bytes  # Ed25519 over "dimee outcome v1", the device's name, each with a NUL behind it, and ``outcome``


class Failure(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="F"):
    """A tier's refusal of one request; codes are stable."""

    request_id: RequestId
    code: FailureCode
    detail: str
    node: Name


class Receipt(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="R"):
    """The recorder's word that these records are committed to the log."""

    request_ids: Annotated[tuple[RequestId, ...], msgspec.Meta(max_length=4096)]


class LogRecord(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="L"):
    """A finished request on its way to the log."""

    record: Record


class LogRecords(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="B"):
    """Finished requests that travel together: a message for each would cost more than the record."""

    messages: Annotated[tuple[bytes, ...], msgspec.Meta(min_length=1, max_length=256)]  # each a LogRecord


Message = HiddenStates | Outcome | SignedOutcome | Failure | Receipt | LogRecord | LogRecords
