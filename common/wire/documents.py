"""The JSON that people and other programs read and write: inputs, answers, statuses."""

from typing import Any

import msgspec

from common.errors import InputError, WireError
from common.types import Answer, Count, Fraction, NodeStatus, NonNegative


class Input(msgspec.Struct, frozen=True):
    """A text to classify, as an application sends it."""

    text: str
    pair: str | None = None
    id: str | None = None  # comes back in the answer's ``id``
    label: str | None = None  # ground truth, if known
    traceparent: str | None = None  # W3C Trace Context: the span that asks


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """How a node has fared over its latest requests; null where there was none."""

    revision: str
    exit_share: Fraction | None = None  # of what it ran, how much it answered itself
    latency_ms: NonNegative | None = None  # median; on a device from acceptance to answer, elsewhere of its own part
    queue: Count = 0  # requests that wait here; on a device those on their way
    operating_point: str | None = None  # the policy in effect; "own", or null where its thresholds were set


class LinkCap(msgspec.Struct, frozen=True):
    """The most that adaptive devices of a site may send of each token."""

    budget: Count = 0  # dimensions; 0, or an empty message, lifts the cap


def decode_input(payload: bytes) -> Input:
    """Read plain UTF-8 text, or JSON ``{"text": …, "pair"?, "id"?, "label"?, "traceparent"?}``.

    Raises:
        InputError: The bytes are no UTF-8, or a JSON object that is no input.
    """
    try:
        text = payload.decode()
    except UnicodeDecodeError as exc:
        raise InputError(f"input is not valid UTF-8 at byte {exc.start}; send UTF-8 text") from exc
    if not text.lstrip().startswith("{"):
        return Input(text)
    try:
        return msgspec.json.decode(text, type=Input)
    except msgspec.ValidationError as exc:
        raise InputError(f'input {text[:60]!r} is no {{"text": …}}: {exc}') from exc
    except (msgspec.DecodeError, RecursionError):
        return Input(text)  # a sentence that starts with a brace


def answer_document(answer: Answer, *, input_id: str | None = None) -> dict[str, Any]:
    """Give an answer as named fields, hops included."""
    document = _named(answer)
    document["hops"] = [_named(hop) for hop in answer.hops]
    document |= {"queue_ms": answer.queue_ms, "network_ms": answer.network_ms, "compute_ms": answer.compute_ms}
    return document if input_id is None else {"id": input_id, **document}


def encode_document(document: Any) -> bytes:
    """Pack a JSON document."""
    return msgspec.json.encode(document)


def decode_status(payload: bytes) -> NodeStatus:
    """Read a node's status.

    Raises:
        WireError: It is no status document.
    """
    try:
        return msgspec.json.decode(payload, type=NodeStatus)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise WireError(f"status refused: {exc}") from exc


def _named(record: msgspec.Struct) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__struct_fields__}
