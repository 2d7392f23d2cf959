"""Arrays inside a policy's record: compact in JSON (base64), viewed without a copy at run time."""

import math
from typing import Any, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from common.routing.evidence import Floats


class Array(msgspec.Struct, frozen=True):
    """Single-precision numbers, little-endian, C order."""

    shape: tuple[int, ...]
    data: bytes

    def __post_init__(self) -> None:
        if math.prod(self.shape) * 4 != len(self.data):
            raise ValueError(f"array {list(self.shape)} needs {math.prod(self.shape) * 4} bytes, got {len(self.data)}")

    @classmethod
    def of(cls, values: NDArray[Any]) -> Self:
        """Copy numbers into a record."""
        return cls(values.shape, np.ascontiguousarray(values, "<f4").tobytes())

    @property
    def values(self) -> Floats:
        """View the numbers, read-only."""
        return np.frombuffer(self.data, "<f4").reshape(self.shape)
