"""The ladder of an adaptive sender: what is worth sending over a split point, from the widest to the thinnest."""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from common.engine.thinness import Thinness
from common.model.thin_links import ThinLink
from common.wire.activations import codec

MESSAGE_BYTES = 230  # of a request beside its numbers, its device's hop and the transport's own included
USUAL_TOKENS = 32
APART = 1.5  # times fewer bytes than the rung before
_WITHOUT_LINK = Thinness(codec="int4")


def rungs(widest: Thinness, link: ThinLink | None, *, width: int, least_accuracy: float = 0.0) -> list[Thinness]:
    """Order what is worth sending, each rung a good deal thinner than the one before.

    Budgets that the bundle records as poor are left out, and those that a smaller one equals.

    Args:
        widest: What is sent while the way is fast.
        link: The thin link at the split point.
        width: Dimensions of the model's hidden states.
        least_accuracy: Of the last exit when everything travels so, by the bundle's record.
    """
    if link is None:
        widest = Thinness(codec=widest.codec)
    ladder = [widest]
    for rung in list(_worthy(widest, link, least_accuracy))[::-1] or [_WITHOUT_LINK]:
        before, here = (message_bytes(each, USUAL_TOKENS, width, link) for each in (ladder[-1], rung))
        if before >= APART * here:
            ladder.append(rung)
    return ladder


def message_bytes(thinness: Thinness, tokens: int, width: int, link: ThinLink | None = None) -> int:
    """Give the size of a message whose hidden states are so thin."""
    left = max(1, round(tokens * thinness.tokens))
    if link is not None and thinness.budget and thinness.codec == "graded":
        return MESSAGE_BYTES + link.graded_bytes(thinness.budget, left)
    return MESSAGE_BYTES + _packed_bytes(thinness.codec, left, thinness.budget or width)


def _worthy(widest: Thinness, link: ThinLink | None, least_accuracy: float) -> Iterator[Thinness]:
    best = 0.0
    for rung in link.entry.rungs if link else ():  # by budget, ascending
        if least_accuracy <= rung.accuracy > best and rung.budget <= (widest.budget or rung.budget):
            yield Thinness(codec="graded", budget=rung.budget, tokens=widest.tokens)
            best = rung.accuracy


@lru_cache(maxsize=4096)
def _packed_bytes(codec_name: str, tokens: int, width: int) -> int:
    return sum(len(part.data) for part in codec(codec_name).encode(np.ones((tokens, width), np.float32)))
