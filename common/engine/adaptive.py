"""Thinness by the uplink: each message as rich as fits its time, with hysteresis."""

import threading
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from common.engine.thinness import Thinness, check_thinness
from common.engine.uplink import Uplink
from common.model.thin_links import ThinLink, ThinLinks
from common.wire.activations import codec

MESSAGE_BYTES = 230  # of a request beside its numbers, its device's hop and the transport's own included
_MAX_LOAD = 0.6  # of the way's capacity
_WIDER_MARGIN = 0.7  # a wider rung must fit so much better before it is taken
_PATIENCE = 8  # messages in a row for which it must, at first
_LONGEST_PATIENCE = 512
_FEWEST_TOKENS = 0.5  # of the last rung


class Adaptive:
    """Chooses among rungs, from the configured thinness to the thinnest the bundle was trained for.

    A message that would come too late takes a thinner rung at once. A wider one is taken one step at a time, after it
    would have fitted with a margin for several messages in a row, and after each step that had to be taken back for
    twice as many; so a steady link gives a steady rung.
    """

    def __init__(self, widest: Thinness, links: ThinLinks, uplink: Uplink, *, width: int, time_share: float) -> None:
        """Prepare the rungs.

        Args:
            widest: What is sent while the way up is fast.
            links: The bundle's thin links.
            uplink: What is known of the way up.
            width: Dimensions of the model's hidden states.
            time_share: Share of a request's time that may pass until its outcome is back.

        Raises:
            ConfigError: The widest thinness is none of the bundle's.
        """
        check_thinness(widest, links)
        self._plain = rungs(widest, ())
        budgets = sorted({budget for link in links.values() for budget in link.budgets}, reverse=True)
        self._thin = rungs(widest, budgets)
        self._links = links
        self._uplink = uplink
        self._width = width
        self._time_share = time_share
        self._lock = threading.Lock()
        self._place = 0  # in the rungs; a plain ladder ends sooner
        self._fits = 0  # messages in a row that a wider rung would have suited
        self._patience = _PATIENCE
        self._since_wider = _LONGEST_PATIENCE  # messages
        self._cap = 0

    def cap(self, budget: int) -> None:
        """Allow no more dimensions per token than this from now on, where there is a link; 0 lifts the cap."""
        with self._lock:
            self._cap = budget

    def choose(self, split_point: int, tokens: int, budget_ms: float) -> Thinness:
        """Give the widest rung that fits."""
        with self._lock:
            link = self._links.get(split_point)
            ladder = self._plain if link is None else self._allowed()
            sizes = [message_bytes(rung, tokens, self._width, link) for rung in ladder]
            self._place = self._next(min(self._place, len(ladder) - 1), sizes, budget_ms * self._time_share)
            return ladder[self._place]

    def _allowed(self) -> Sequence[Thinness]:
        if not self._cap:
            return self._thin
        return [rung for rung in self._thin if 0 < rung.budget <= self._cap] or self._thin[-1:]

    def _next(self, place: int, sizes: Sequence[int], limit_ms: float) -> int:
        self._since_wider += 1
        if not self._suits(sizes[place], limit_ms, margin=1.0):
            was_hasty = self._since_wider <= _LONGEST_PATIENCE
            self._patience = min(2 * self._patience, _LONGEST_PATIENCE) if was_hasty else _PATIENCE
            self._fits = 0
            thinner = (step for step in range(place, len(sizes)) if self._suits(sizes[step], limit_ms, margin=1.0))
            return next(thinner, len(sizes) - 1)
        if place and self._suits(sizes[place - 1], limit_ms, margin=_WIDER_MARGIN):
            self._fits += 1
        else:
            self._fits = 0
        if self._fits < self._patience:
            return place
        self._fits = self._since_wider = 0
        return place - 1

    def _suits(self, num_bytes: int, limit_ms: float, *, margin: float) -> bool:
        is_timely = self._uplink.expected_ms(num_bytes) <= limit_ms * margin
        return is_timely and self._uplink.load(num_bytes) <= _MAX_LOAD * margin


def rungs(widest: Thinness, budgets: Sequence[int]) -> list[Thinness]:
    """Order what a bundle offers from the widest to the thinnest, by bytes; ``budgets`` descend."""
    within = [budget for budget in budgets if not widest.budget or budget < widest.budget]
    ladder = [Thinness(codec="graded", budget=budget, tokens=widest.tokens) for budget in within]
    if widest.budget and widest.codec != "graded":
        ladder.insert(0, Thinness(codec="graded", budget=widest.budget, tokens=widest.tokens))
    elif not budgets and widest.codec != "int4":
        ladder.append(Thinness(codec="int4"))
    if budgets and widest.tokens > _FEWEST_TOKENS:
        ladder.append(Thinness(codec="graded", budget=budgets[-1], tokens=_FEWEST_TOKENS))
    return [widest, *ladder]


def message_bytes(thinness: Thinness, tokens: int, width: int, link: ThinLink | None = None) -> int:
    """Give the size of a message whose hidden states are so thin."""
    left = max(1, round(tokens * thinness.tokens))
    if link is not None and thinness.budget and thinness.codec == "graded":
        return MESSAGE_BYTES + link.graded_bytes(thinness.budget, left)
    return MESSAGE_BYTES + _packed_bytes(thinness.codec, left, thinness.budget or width)


@lru_cache(maxsize=4096)
def _packed_bytes(codec_name: str, tokens: int, width: int) -> int:
    return sum(len(part.data) for part in codec(codec_name).encode(np.ones((tokens, width), np.float32)))
