"""Arrays to tensors and back, without a copy where the byte order already fits."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import WireError
from common.wire.messages import Tensor

MAX_TENSOR_BYTES = 4 * 1024 * 1024
_DTYPES = {name: np.dtype(name) for name in ("<f4", "<f2", "|i1", "|u1", "<u2", "<u4")}


def pack(array: NDArray[Any]) -> Tensor:
    """Copy an array's bytes into a tensor, little-endian and contiguous."""
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return Tensor(little.dtype.str, little.shape, little.tobytes())


def unpack(tensor: Tensor) -> NDArray[Any]:
    """View a received tensor as a read-only array.

    Raises:
        WireError: The dtype is not allowed, or ``data`` does not fill ``shape`` exactly, or it is over the limit.
    """
    dtype = _DTYPES.get(tensor.dtype)
    if dtype is None:
        raise WireError(f"tensor dtype {tensor.dtype[:16]!r} is not one of {sorted(_DTYPES)}")
    expected = math.prod(tensor.shape) * dtype.itemsize
    if expected != len(tensor.data):
        raise WireError(f"tensor {tensor.dtype}{list(tensor.shape)} needs {expected} bytes, got {len(tensor.data)}")
    if expected > MAX_TENSOR_BYTES:
        raise WireError(f"tensor of {expected} bytes exceeds the limit of {MAX_TENSOR_BYTES}")
    return np.frombuffer(tensor.data, dtype).reshape(tensor.shape)
