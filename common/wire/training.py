"""The messages of split training: activations up, their gradient down; positional msgpack as between tiers."""

from typing import Annotated, Any

import msgpack
import msgspec

from common.errors import WireError
from common.types import Count, Finite
from common.wire.codec import MAX_MESSAGE_BYTES
from common.wire.messages import Tensor


class Activations(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="A"):
    """Hidden states at the split point for one batch; real tokens only, text after text."""

    step: Count
    codec: str
    tensors: Annotated[tuple[Tensor, ...], msgspec.Meta(min_length=1, max_length=4)]  # of [tokens, width]
    lengths: Annotated[tuple[Count, ...], msgspec.Meta(min_length=1, max_length=4096)]  # tokens of each text
    labels: Annotated[tuple[Count, ...], msgspec.Meta(max_length=4096)]  # empty: only predictions are asked for
    axes: Annotated[tuple[Tensor, ...], msgspec.Meta(max_length=1)] = ()  # [width, hidden], with which a link begins


class Learned(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="G"):
    """What a step taught: the gradient of the activations, in their order and shape, and the classes named."""

    step: Count
    codec: str
    scale: Finite  # the gradient was multiplied by it, so that half-precision scales can hold it
    tensors: Annotated[tuple[Tensor, ...], msgspec.Meta(max_length=4)]  # none where no labels came
    loss: Finite
    predictions: tuple[Count, ...]


class Refused(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag="X"):
    """The other part cannot learn from what it was sent."""

    step: Count
    detail: str


TrainingMessage = Activations | Learned | Refused


def encode_training(message: TrainingMessage) -> bytes:
    """Pack a message."""
    packed: bytes = msgpack.packb(msgspec.to_builtins(message, builtin_types=(bytes,)), use_bin_type=True)
    return packed


def decode_training(payload: bytes) -> TrainingMessage:
    """Unpack and validate a message.

    Raises:
        WireError: It is too large, or no message of split training.
    """
    if len(payload) > MAX_MESSAGE_BYTES:
        raise WireError(f"message of {len(payload)} bytes exceeds the limit of {MAX_MESSAGE_BYTES}")
    try:
        fields: Any = msgpack.unpackb(payload, raw=False, use_list=False, strict_map_key=True, max_array_len=8192)
        message: TrainingMessage = msgspec.convert(fields, TrainingMessage)
    except msgspec.ValidationError as exc:
        raise WireError(f"message refused: {exc}") from exc
    except (ValueError, TypeError, RecursionError, OverflowError, MemoryError, msgpack.UnpackException) as exc:
        raise WireError(f"{len(payload)} bytes are no msgpack ({type(exc).__name__})") from exc
    return message
