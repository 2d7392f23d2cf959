"""Rows of whole numbers with so many bits per column, without a loop over either."""

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.uint8]
Bits = NDArray[np.intp]  # [W], 1 to 8 each


def bytes_of(bits: Bits) -> int:
    """Tell the bytes of one packed row."""
    return -(-int(bits.sum()) // 8)


def pack_bits(symbols: Rows, bits: Bits) -> Rows:
    """Pack [S, W], each below 2 to the power of its column's bits, to [S, bytes]; a row is filled up with zeros."""
    spread = np.unpackbits(symbols[:, :, None], axis=2)  # [S, W, 8], most significant first
    return np.packbits(spread[:, _places(bits)], axis=1)


def unpack_bits(rows: Rows, bits: Bits) -> Rows:
    """Unpack [S, bytes] to [S, W]."""
    spread = np.zeros((len(rows), len(bits), 8), np.uint8)
    spread[:, _places(bits)] = np.unpackbits(rows, axis=1, count=int(bits.sum()))
    return np.packbits(spread, axis=2)[:, :, 0]


def _places(bits: Bits) -> NDArray[np.bool_]:
    """Mark the bits in use of every column, [W, 8]."""
    return np.arange(8) >= 8 - bits[:, None]
