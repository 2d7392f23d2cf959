"""Token ids in the place of the embedding output: two bytes per token, and the words themselves."""

import msgspec
import numpy as np
from numpy.typing import NDArray

from common.errors import WireError
from common.wire.messages import Tensor
from common.wire.tensors import pack, unpack

TOKENS = "tokens"
_SHORT_IDS = 1 << 16


class Tokens(msgspec.Struct, frozen=True, kw_only=True):
    """One input as the tokenizer cut it."""

    ids: NDArray[np.int64]  # [sequence]
    types: NDArray[np.int64]  # [sequence]: 1 in the second text of a pair, else 0


def pack_tokens(tokens: Tokens) -> tuple[Tensor, ...]:
    """Pack ids in two bytes each, or four where one needs it; types in a byte each, where there is a second text."""
    ids = pack(tokens.ids.astype(np.uint16 if tokens.ids.max() < _SHORT_IDS else np.uint32))
    return (ids, pack(tokens.types.astype(np.uint8))) if tokens.types.any() else (ids,)


def unpack_tokens(tensors: tuple[Tensor, ...]) -> Tokens:
    """Unpack ids and types; whether a model knows them is for it to say.

    Raises:
        WireError: Wrong number, dtype or shape of tensors.
    """
    received = tuple(tensor.dtype for tensor in tensors)
    if received[0] not in {"<u2", "<u4"} or received[1:] not in {(), ("|u1",)}:
        raise WireError(f"tokens travel as '<u2' or '<u4', then '|u1', got {[name[:16] for name in received]}")
    ids, *rest = (unpack(tensor).astype(np.int64) for tensor in tensors)
    types = rest[0] if rest else np.zeros_like(ids)
    if ids.ndim != 1 or not ids.size or types.shape != ids.shape:
        raise WireError(
            f"tokens must be [sequence] and not empty, got {list(ids.shape)} with types {list(types.shape)}"
        )
    return Tokens(ids=ids, types=types)
