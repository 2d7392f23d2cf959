"""Activation codecs: hidden states to tensors and back, chosen by name.

Bytes for S tokens of width H: ``float32`` 4·S·H, ``float16`` 2·S·H, ``int8`` S·H + 2·S.
"""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from common.errors import ConfigError, WireError
from common.wire.messages import Tensor
from common.wire.tensors import pack, unpack

Hidden = NDArray[np.float32]  # [sequence, hidden]


class ActivationCodec(Protocol):
    """Turns hidden states into tensors and back; stateless."""

    name: str

    def encode(self, hidden_states: Hidden) -> tuple[Tensor, ...]:
        """Pack [S, H]."""
        ...

    def decode(self, tensors: tuple[Tensor, ...]) -> Hidden:
        """Unpack to [S, H], float32.

        Raises:
            WireError: Wrong number, dtype or shape of tensors, or a value that is not finite.
        """
        ...


class Float32:
    """No loss."""

    name = "float32"

    def encode(self, hidden_states: Hidden) -> tuple[Tensor, ...]:
        """Pack [S, H] as it is."""
        return (pack(hidden_states),)

    def decode(self, tensors: tuple[Tensor, ...]) -> Hidden:
        """View [S, H]."""
        (values,) = _expect(tensors, "<f4")
        return _finite(values)


class Float16:
    """Half the bytes; values beyond ±65504 are clipped."""

    name = "float16"

    def encode(self, hidden_states: Hidden) -> tuple[Tensor, ...]:
        """Round [S, H] to half precision."""
        return (pack(np.clip(hidden_states, -65504, 65504).astype(np.float16)),)

    def decode(self, tensors: tuple[Tensor, ...]) -> Hidden:
        """Widen [S, H]."""
        (values,) = _expect(tensors, "<f2")
        return _finite(values.astype(np.float32))


class Int8:
    """A quarter of the bytes: symmetric, one half-precision scale per token."""

    name = "int8"

    def encode(self, hidden_states: Hidden) -> tuple[Tensor, ...]:
        """Quantise [S, H] to int8 with a scale [S] per token."""
        peak = np.abs(hidden_states).max(axis=1, keepdims=True)  # [S, 1]
        scale = np.clip(peak / 127, 6.2e-5, 65504).astype(np.float16)  # [S, 1], the smallest normal and largest half
        quantised = np.rint(hidden_states / scale.astype(np.float32))
        return (pack(np.clip(quantised, -127, 127, out=quantised).astype(np.int8)), pack(scale[:, 0]))

    def decode(self, tensors: tuple[Tensor, ...]) -> Hidden:
        """Scale [S, H] back."""
        values, scale = _expect(tensors, "|i1", "<f2")
        if scale.shape != values.shape[:1]:
            raise WireError(f"int8 hidden states {list(values.shape)} came with scales {list(scale.shape)}")
        _finite(scale)
        return values * scale.astype(np.float32)[:, None]


_CODECS: dict[str, ActivationCodec] = {codec.name: codec for codec in (Float32(), Float16(), Int8())}
CODEC_NAMES = tuple(_CODECS)


def codec(name: str) -> ActivationCodec:
    """Look a codec up for use on this node.

    Raises:
        ConfigError: No codec has this name.
    """
    if name not in _CODECS:
        raise ConfigError(f"activation codec {name!r} is not one of {sorted(_CODECS)}")
    return _CODECS[name]


def decode_activation(name: str, tensors: tuple[Tensor, ...]) -> Hidden:
    """Decode hidden states [S, H] that a peer packed with the codec it names.

    Raises:
        WireError: No such codec, or its tensors are wrong.
    """
    if name not in _CODECS:
        raise WireError(f"activation codec {name[:32]!r} is not one of {sorted(_CODECS)}")
    return _CODECS[name].decode(tensors)


def _expect(tensors: tuple[Tensor, ...], *dtypes: str) -> tuple[NDArray[Any], ...]:
    received = tuple(tensor.dtype for tensor in tensors)
    if received != dtypes:
        raise WireError(f"expected tensors of {list(dtypes)}, got {[name[:16] for name in received]}")
    arrays = tuple(unpack(tensor) for tensor in tensors)
    if arrays[0].ndim != 2 or not arrays[0].size:
        raise WireError(f"hidden states must be [sequence, hidden] and not empty, got {list(arrays[0].shape)}")
    return arrays


def _finite(values: NDArray[Any]) -> NDArray[Any]:
    if not np.isfinite(values).all():
        raise WireError("hidden states hold NaN or infinite values")
    return values
