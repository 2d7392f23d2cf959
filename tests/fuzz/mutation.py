"""Breaks messages: flipped, cut, repeated, spliced, and with lengths and numbers at the limits."""

import random

_EDGES = (
    b"\x00",
    b"\x7f",
    b"\x80",
    b"\xff",
    b"\xc1",
    b"\xdf\xff\xff\xff\xff",
    b"\xdd\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
)
_NUMBERS = (
    b"\xca\x7f\xc0\x00\x00",  # NaN
    b"\xca\x7f\x80\x00\x00",  # infinite
    b"\xcb\x7e\x37\xe4\x3c\x88\x00\x75\x9c",  # 1e300
    b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\xd3\x80\x00\x00\x00\x00\x00\x00\x00",
    b"\xc0",
    b"\xc3",
)


def mutate(payload: bytes, rng: random.Random) -> bytes:
    """Break a message in one to four places."""
    broken = bytearray(payload)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(broken) + 1)
        match rng.randrange(7):
            case 0 if at < len(broken):
                broken[at] ^= 1 << rng.randrange(8)
            case 1:
                del broken[at : at + rng.randint(1, 64)]
            case 2:
                broken[at:at] = rng.randbytes(rng.randint(1, 16))
            case 3:
                broken[at : at + 1] = rng.choice(_EDGES)
            case 4:
                edge = rng.choice(_NUMBERS)
                broken[at : at + len(edge)] = edge
            case 5:
                broken[at:at] = broken[at : at + rng.randint(1, 64)]
            case _:
                del broken[at:]
    return bytes(broken)
