"""Messages to msgpack bytes and back; bytes from a peer are guilty until checked."""

from typing import Any

import msgpack
import msgspec

from common.errors import WireError
from common.wire.messages import LogRecord, Message

MAX_MESSAGE_BYTES = 8 * 1024 * 1024


def encode(message: Message) -> bytes:
    """Pack a message; floats travel in single precision, but for records, whose times need more."""
    fields = msgspec.to_builtins(message, builtin_types=(bytes,))
    packed: bytes = msgpack.packb(fields, use_bin_type=True, use_single_float=not isinstance(message, LogRecord))
    return packed


def decode(payload: bytes) -> Message:
    """Unpack and validate a message.

    Raises:
        WireError: The payload is too large, is no msgpack, or is no message of this version.
    """
    if len(payload) > MAX_MESSAGE_BYTES:
        raise WireError(f"message of {len(payload)} bytes exceeds the limit of {MAX_MESSAGE_BYTES}")
    try:
        fields: Any = msgpack.unpackb(
            payload, raw=False, use_list=False, strict_map_key=True, max_map_len=64, max_array_len=8192, max_ext_len=0
        )
        message: Message = msgspec.convert(fields, Message)
    except msgspec.ValidationError as exc:
        raise WireError(f"message refused: {exc}") from exc
    except (ValueError, TypeError, RecursionError, OverflowError, MemoryError, msgpack.UnpackException) as exc:
        raise WireError(f"{len(payload)} bytes are no msgpack ({type(exc).__name__})") from exc
    return message
