"""A request's place in a distributed trace: W3C Trace Context, ``traceparent`` (section 3.2).

Applications send it as the standard's text, tiers as its fields in bytes, half as long.
"""

import re
import secrets
from typing import NamedTuple, Self

_TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_PACKED_BYTES = 25  # trace id, span id, flags
_SAMPLED = 0x01
_VERSION = "00"


class TraceContext(NamedTuple):
    """A span, and the trace that it belongs to."""

    trace_id: str  # 32 hexadecimal digits
    span_id: str  # 16 hexadecimal digits
    is_sampled: bool = True  # whether it is recorded

    @classmethod
    def fresh(cls) -> Self:
        """Begin a trace."""
        return cls(secrets.token_hex(16), secrets.token_hex(8))

    def child(self) -> Self:
        """Give another span of the same trace."""
        return self._replace(span_id=secrets.token_hex(8))

    def packed(self) -> bytes:
        """Give it as it travels between tiers."""
        return bytes.fromhex(f"{self.trace_id}{self.span_id}{_SAMPLED * self.is_sampled:02x}")

    def __str__(self) -> str:
        return f"{_VERSION}-{self.trace_id}-{self.span_id}-{_SAMPLED * self.is_sampled:02x}"


def parse_traceparent(text: str) -> TraceContext | None:
    """Read a ``traceparent`` of an application; None where it is invalid, which is to count as none.

    Of a later version the first four fields are read, as the standard asks.
    """
    found = _TRACEPARENT.fullmatch(text)
    if found is None or (found[1] == _VERSION and found[5]):
        return None
    return TraceContext(found[2], found[3], bool(int(found[4], 16) & _SAMPLED))


def unpack_traceparent(packed: bytes) -> TraceContext | None:
    """Read what ``TraceContext.packed`` gives; None where it is invalid."""
    if len(packed) != _PACKED_BYTES:
        return None
    return parse_traceparent(f"{_VERSION}-{packed[:16].hex()}-{packed[16:24].hex()}-{packed[24:].hex()}")
