"""Activation codecs: hidden states to tensors and back, chosen by name.

Bytes for S tokens of width H: ``float32`` 4·S·H, ``float16`` 2·S·H, ``int8`` S·H + 2·S, ``int4`` about
S·(17·H / 32 + 4) + H / 8, ``graded`` H + S + S·(the bits of all dimensions) / 8. The width is that of what
travels: a thin link sends fewer dimensions than the model has.
"""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from common.errors import ConfigError, WireError
from common.wire.bits import Bits, bytes_of, pack_bits, unpack_bits
from common.wire.messages import Tensor
from common.wire.tensors import MAX_TENSOR_BYTES, pack, unpack
from common.wire.tokens import TOKENS

Hidden = NDArray[np.float32]  # [sequence, width]
Attention = NDArray[np.float32]  # [sequence], how much a token counts; 1 on average

_SMALLEST_SCALE, _LARGEST_SCALE = np.float32(6.2e-5), np.float32(65504)  # normal numbers of half precision
_DIMENSIONS_PER_OUTLIER = 16

MOST_BITS = 8  # of a graded dimension
_MOST_GRADED = MAX_TENSOR_BYTES // 8  # numbers in a message; unpacked, each takes a byte for every bit
CODES_PER_OCTAVE = 8  # of its largest value, on a scale of equal ratios
DIMENSIONS_PER_LEVEL = 8  # the median of the smallest of so many sets the level of one bit
_HALVES = np.exp2(np.arange(MOST_BITS + 1) - 1).astype(np.float32)  # of the steps, by bits
_CODE_OF_ONE = 128
_MORE_BITS = (-3, 2)  # of a token, by its attention; chosen on kept-back texts


class ActivationCodec(Protocol):
    """Turns hidden states into tensors and back; stateless."""

    name: str

    def encode(self, hidden_states: Hidden, attention: Attention | None = None, /) -> tuple[Tensor, ...]:
        """Pack [S, H], of which not all tokens may count alike."""
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

    def encode(self, hidden_states: Hidden, _: Attention | None = None, /) -> tuple[Tensor, ...]:
        """Pack [S, H] as it is."""
        return (pack(hidden_states),)

    def decode(self, tensors: tuple[Tensor, ...]) -> Hidden:
        """View [S, H]."""
        (values,) = _expect(tensors, "<f4")
        return _finite(values)


class Float16:
    """Half the bytes; values beyond ±65504 are clipped."""

    name = "float16"

    def encode(self, hidden_states: Hidden, _: Attention | None = None, /) -> tuple[Tensor, ...]:
        """Round [S, H] to half precision."""
        return (pack(np.clip(hidden_states, -65504, 65504).astype(np.float16)),)

    def decode(self, tensors: tuple[Tensor, ...]) -> Hidden:
        """Widen [S, H]."""
        (values,) = _expect(tensors, "<f2")
        return _finite(values.astype(np.float32))


class Int8:
    """A quarter of the bytes: symmetric, one half-precision scale per token."""

    name = "int8"

    def encode(self, hidden_states: Hidden, _: Attention | None = None, /) -> tuple[Tensor, ...]:
        """Quantise [S, H] to int8 with a scale [S] per token."""
        quantised, scale = _quantise(hidden_states, 127)
        return (pack(quantised.astype(np.int8)), pack(scale))

    def decode(self, tensors: tuple[Tensor, ...]) -> Hidden:
        """Scale [S, H] back."""
        values, scale = _expect(tensors, "|i1", "<f2")
        if scale.shape != values.shape[:1]:
            raise WireError(f"int8 hidden states {list(values.shape)} came with scales {list(scale.shape)}")
        _finite(scale)
        return values * scale.astype(np.float32)[:, None]


class Int4:
    """About an eighth of the bytes: four bits a value, but eight for the outlier dimensions, and two scales per token.

    A few dimensions of a transformer's hidden states are many times larger than the rest; one scale for all of them
    would leave the rest no bits. They are found in each message by their largest value.
    """

    name = "int4"

    def encode(self, hidden_states: Hidden, _: Attention | None = None, /) -> tuple[Tensor, ...]:
        """Quantise [S, W]: outliers [S, K] to int8, the rest to pairs of half bytes [S, (W - K) / 2]."""
        width = hidden_states.shape[1]
        columns = _outlier_columns(hidden_states)  # [K], ascending
        rest = np.delete(hidden_states, columns, axis=1)  # [S, W - K], an even number
        outliers, coarse = hidden_states[:, columns], np.zeros_like(rest)
        scales = np.ones((len(hidden_states), 2), np.float16)  # [S, 2]
        outliers, scales[:, 0] = _quantise(outliers, 127)
        if len(columns) < width:
            coarse, scales[:, 1] = _quantise(rest, 7)
        nibbles = (coarse + 8).astype(np.uint8)
        pairs = nibbles[:, 0::2] << 4 | nibbles[:, 1::2]
        return (pack(outliers.astype(np.int8)), pack(pairs), pack(columns.astype(np.uint16)), pack(scales))

    def decode(self, tensors: tuple[Tensor, ...]) -> Hidden:
        """Scale [S, W] back."""
        outliers, pairs, columns, scales = _expect(tensors, "|i1", "|u1", "<u2", "<f2")
        tokens, kept = outliers.shape
        if pairs.ndim != 2 or len(pairs) != tokens or scales.shape != (tokens, 2):
            raise WireError(f"int4 outliers {[tokens, kept]} came with {list(pairs.shape)} and {list(scales.shape)}")
        width = kept + 2 * pairs.shape[1]
        if columns.shape != (kept,) or len(np.unique(columns)) != kept or int(columns.max()) >= width:
            raise WireError(f"int4 outlier dimensions must be {kept} different ones below {width}")
        _finite(scales)
        factors = scales.astype(np.float32)
        hidden = np.empty((tokens, width), np.float32)
        rest = np.ones(width, bool)
        rest[columns] = False
        nibbles = np.stack([pairs >> 4, pairs & 15], axis=2).reshape(tokens, -1).astype(np.float32) - 8  # [S, W - K]
        hidden[:, rest] = nibbles * factors[:, 1:]
        hidden[:, columns] = outliers * factors[:, :1]
        return hidden


class Graded:
    """As many bits a dimension as it is large: one for the smallest, one more for every doubling, eight at most.

    Every dimension is so rounded to about the same step (reverse water-filling, as in transform coding), which is the
    best there is where an error counts alike in all of them: what a thin link's encoder sees to. Its largest value in
    the message is rounded up to one of eight per octave, and tells both sides its bits and its step. Over a link each
    token has a bit more or fewer in every dimension for every doubling of the attention that the exit head pays it.
    """

    name = "graded"

    def encode(self, hidden_states: Hidden, attention: Attention | None = None, /) -> tuple[Tensor, ...]:
        """Quantise [S, W] to rows of bits, beside peaks [W] of the dimensions and the bits more [S] of the tokens."""
        codes = _peak_codes(hidden_states)  # [W]
        more = np.zeros(len(hidden_states), np.int8) if attention is None else _more_bits(attention)  # [S]
        bits = _bits(codes, more)  # [S, W]
        half = _HALVES[bits]  # [S, W]
        steps = np.floor(hidden_states / (_peaks(codes) / half))
        symbols = (np.clip(steps, -half, half - 1) + half).astype(np.uint8)  # [S, W]
        packed = pack_bits(symbols, bits)
        if attention is None:
            return (pack(packed.reshape(len(bits), -1)), pack(codes))
        return (pack(packed[None]), pack(codes), pack(more))

    def decode(self, tensors: tuple[Tensor, ...]) -> Hidden:
        """Give the middle of every step, [S, W]."""
        rows, codes, *rest = _expect(tensors, "|u1", "|u1", *("|i1" for _ in tensors[2:3]))
        more = rest[0] if rest else np.zeros(len(rows), np.int8)
        if codes.ndim != 1 or more.ndim != 1 or not 0 < codes.size * more.size <= _MOST_GRADED:
            raise WireError(f"peaks {list(codes.shape)} are not one per dimension or bits {list(more.shape)} per token")
        bits = _bits(codes, more)
        if rows.size != bytes_of(bits):
            raise WireError(f"graded rows of {rows.size} bytes came with peaks that need {bytes_of(bits)}")
        half = _HALVES[bits]
        middles = unpack_bits(rows.ravel(), bits) + np.float32(0.5) - half  # nought where no bit came
        hidden: Hidden = middles * (_peaks(codes) / half)
        return hidden


_CODECS: dict[str, ActivationCodec] = {codec.name: codec for codec in (Float32(), Float16(), Int8(), Int4(), Graded())}
CODEC_NAMES = tuple(_CODECS)


def codec(name: str) -> ActivationCodec:
    """Look a codec up for use on this node.

    Raises:
        ConfigError: No codec has this name.
    """
    if name not in _CODECS:
        hint = '; what leaves before layer 0 can go as tokens, by device.offload = "tokens"' if name == TOKENS else ""
        raise ConfigError(f"activation codec {name!r} is not one of {sorted(_CODECS)}{hint}")
    return _CODECS[name]


def decode_activation(name: str, tensors: tuple[Tensor, ...]) -> Hidden:
    """Decode hidden states [S, H] that a peer packed with the codec it names.

    Raises:
        WireError: No such codec, or its tensors are wrong.
    """
    if name not in _CODECS:
        raise WireError(f"activation codec {name[:32]!r} is not one of {sorted(_CODECS)}")
    return _CODECS[name].decode(tensors)


def _quantise(values: Hidden, steps: int) -> tuple[Hidden, NDArray[np.float16]]:
    """Round [S, W] to whole numbers up to ``steps`` either way, and give the scale [S] of each token."""
    peak = np.maximum.reduce(np.abs(values), axis=1, keepdims=True)  # [S, 1]
    scale = np.minimum(np.maximum(peak / steps, _SMALLEST_SCALE), _LARGEST_SCALE).astype(np.float16)  # [S, 1]
    quantised = np.rint(values / scale.astype(np.float32))
    np.minimum(quantised, steps, out=quantised)  # with the next line half the time of clip()
    np.maximum(quantised, -steps, out=quantised)
    return quantised, scale[:, 0]


def _outlier_columns(hidden_states: Hidden) -> NDArray[np.intp]:
    """Find one dimension in sixteen, or one more so that the others make pairs."""
    width = hidden_states.shape[1]
    count = max(1, width // _DIMENSIONS_PER_OUTLIER)
    count += (width - count) % 2
    peaks = np.abs(hidden_states).max(axis=0)  # [W]
    return np.sort(np.argpartition(peaks, width - count)[width - count :])


def _peak_codes(hidden_states: Hidden) -> NDArray[np.uint8]:
    """Round the largest value [W] of every dimension of [S, W] up to the scale of peaks."""
    peaks = np.abs(hidden_states).max(axis=0)
    codes: Hidden = np.ceil(np.log2(np.maximum(peaks, np.float32(1e-9))) * CODES_PER_OCTAVE) + _CODE_OF_ONE
    return codes.clip(0, 255).astype(np.uint8)


def _peaks(codes: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.exp2((codes.astype(np.float32) - _CODE_OF_ONE) / CODES_PER_OCTAVE)


def _bits(codes: NDArray[np.uint8], more: NDArray[np.int8]) -> Bits:
    """Give the bits [S, W]; one for dimensions at the level of the smallest, whole numbers on every machine."""
    place = len(codes) // (2 * DIMENSIONS_PER_LEVEL)
    level = int(np.partition(codes, place)[place])
    by_code = np.clip((codes.astype(np.intp) - level) // CODES_PER_OCTAVE + 1, 1, MOST_BITS)
    bits: Bits = np.clip(by_code + more[:, None], 0, MOST_BITS)
    return bits


def _more_bits(attention: Attention) -> NDArray[np.int8]:
    doublings = np.log2(np.maximum(attention, np.float32(1e-9)))
    return np.clip(np.rint(doublings - np.float32(0.2)), *_MORE_BITS).astype(np.int8)


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
