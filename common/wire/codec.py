"""Messages to msgpack bytes and back; bytes from a peer are guilty until checked."""

from typing import Any, NamedTuple

import msgpack
import msgspec

from common.errors import WireError
from common.wire.messages import HiddenStates, Message

MAX_MESSAGE_BYTES = 8 * 1024 * 1024
_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Message)


def encode(message: Message) -> bytes:
    """Pack a message; a request's floats travel in single precision, for its way may be thin."""
    if not isinstance(message, HiddenStates):
        return _ENCODER.encode(message)
    fields = msgspec.to_builtins(message, builtin_types=(bytes,))
    if not message.traceparent:
        del fields[-1]  # most requests are in no trace
    packed: bytes = msgpack.packb(fields, use_single_float=True)
    return packed


def decode(payload: bytes) -> Message:
    """Unpack and validate a message.

    Raises:
        WireError: The payload is too large, is no msgpack, or is no message of this version.
    """
    if len(payload) > MAX_MESSAGE_BYTES:
        raise WireError(f"message of {len(payload)} bytes exceeds the limit of {MAX_MESSAGE_BYTES}")
    try:
        message: Message = _DECODER.decode(payload)
    except msgspec.ValidationError as exc:
        raise WireError(f"message refused: {exc}") from exc
    except (msgspec.DecodeError, ValueError, RecursionError) as exc:
        raise WireError(f"{len(payload)} bytes are no msgpack ({type(exc).__name__})") from exc
    return message


class Peek(NamedTuple):
    """What a queue needs to know of a request before it is unpacked and validated."""

    device_id: str = ""  # empty: this is no request
    budget_ms: float = 0.0
    is_retry: bool = False
    request_id: str = ""


class _Glance(msgspec.Struct, frozen=True, array_like=True, tag="H"):
    """HiddenStates as far as a queue cares; the rest is not looked at."""

    request_id: str
    device_id: str
    model_revision: msgspec.Raw
    split_point: msgspec.Raw
    budget_ms: float
    codec: msgspec.Raw
    tensors: msgspec.Raw
    hops: msgspec.Raw = msgspec.Raw()
    attempt: int = 1


_NOTHING = Peek()
_GLANCER = msgspec.msgpack.Decoder(_Glance)


def peek(payload: bytes) -> Peek:
    """Read whose request this is and how urgent, without a look at its tensors; nothing is validated."""
    try:
        seen = _GLANCER.decode(payload)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return _NOTHING
    return Peek(seen.device_id[:64], seen.budget_ms, seen.attempt > 1, seen.request_id[:64])


class Heading(NamedTuple):
    """What a message is and whose, as its first fields say; the rest is not looked at."""

    tag: str
    request_id: str = ""
    device_id: str = ""  # of requests and records; a batch of records has a heading for each


def headings(payload: bytes, *, is_record: bool = False) -> tuple[Heading, ...]:
    """Read whose message this is, at a tenth of what decoding takes: one heading, or one per record of a batch.

    Raises:
        WireError: It does not begin like a message.
    """
    reader = msgpack.Unpacker(raw=False, use_list=False, max_buffer_size=MAX_MESSAGE_BYTES, max_array_len=8192)
    try:
        reader.feed(payload)
        reader.read_array_header()
        match reader.unpack():
            case "O" | "F" as tag:
                return (Heading(tag, _text(reader.unpack())),)
            case "S" as tag:
                return (Heading(tag, _outcome_id(reader.unpack())),)
            case "H" as tag:
                return (Heading(tag, _text(reader.unpack()), _text(reader.unpack())),)
            case "L" as tag:
                reader.read_array_header()  # the record, and in it first of all the answer
                reader.read_array_header()
                return (Heading(tag, _text(reader.unpack()), _text(reader.unpack())),)
            case "R" as tag:
                return (Heading(tag),)
            case "B" if not is_record:
                return tuple(headings(inner, is_record=True)[0] for inner in reader.unpack())
            case tag:
                raise WireError(f"message refused: {tag!r:.32} is no tag")
    except (ValueError, TypeError, OverflowError, RecursionError, MemoryError, msgpack.UnpackException) as exc:
        raise WireError(f"{len(payload)} bytes do not begin like a message ({type(exc).__name__})") from exc


def _outcome_id(inner: bytes) -> str:
    (found,) = headings(inner)
    if found.tag != "O":
        raise WireError(f"message refused: {found.tag!r} is signed where an outcome belongs")
    return found.request_id


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected text, got {type(value).__name__}")
    return value
