"""Rows of whole numbers of few bits each, without a loop over either."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.uint8]
Bits = NDArray[np.intp]  # [S, W], 0 to 8 each

_IN_USE = (np.arange(8) >= 8 - np.arange(9)[:, None]).view(np.uint64)[:, 0]  # by bits: eight claims in one number


def bytes_of(bits: Bits) -> int:
    """Tell the bytes of all packed rows."""
    return int((-(-bits.sum(axis=1) // 8)).sum())


def pack_bits(symbols: Rows, bits: Bits) -> Rows:
    """Pack [S, W], each below 2 to the power of its bits, to [bytes]; every row is filled up with zeros to a byte."""
    return np.packbits(np.unpackbits(_with_last(symbols, 0).ravel())[_places(bits)])  # most significant first


def unpack_bits(packed: Rows, bits: Bits) -> Rows:
    """Unpack [bytes] to [S, W]."""
    places = _places(bits)
    spread = np.zeros(len(places), np.uint8)
    spread[places] = np.unpackbits(packed)
    return np.packbits(spread).reshape(len(bits), -1)[:, :-1]


def _places(bits: Bits) -> NDArray[np.bool_]:
    """Mark the bits in use of every number and of what fills the row, [S * (W + 1) * 8]."""
    places: NDArray[np.bool_] = _IN_USE[_with_last(bits, -bits.sum(axis=1) % 8)].ravel().view(np.bool_)
    return places


def _with_last(rows: NDArray[Any], last: NDArray[Any] | int) -> NDArray[Any]:
    wider = np.empty((len(rows), rows.shape[1] + 1), rows.dtype)
    wider[:, :-1], wider[:, -1] = rows, last
    return wider
