"""Thinness by the uplink: each message as rich as fits its time, with hysteresis."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from common.engine.ladder import USUAL_TOKENS, message_bytes, rungs
from common.engine.thinness import Thinness, check_thinness
from common.engine.uplink import Pace, Uplink
from common.model.thin_links import ThinLink, ThinLinks

_MAX_LOAD = 0.6  # of the way's capacity
_WIDER_MARGIN = 0.7  # a wider rung must fit so much better before it is taken
_PATIENCE = 8  # messages in a row for which it must, at first
_LONGEST_PATIENCE = 512
_LEAP = 4.0  # times the bytes at most where rungs are left out: small messages tell little about large ones
_CLEARLY = 0.5  # of what a byte took when a step failed: then the link is another, and patience begins anew
_TOKENS_SHARE = 0.1  # weight of a new message in the usual length


class Adaptive:
    """Chooses among the rungs that are worth sending, from the configured thinness to the thinnest.

    A message that would come too late takes a thinner rung at once. A wider one is taken after it would have fitted
    with a margin for several messages in a row, and after each step that had to be taken back for twice as many, unless
    the way is clearly quicker now; so a steady link gives a steady rung. Where the way allows it, a step goes over
    several rungs.
    """

    def __init__(
        self,
        widest: Thinness,
        links: ThinLinks,
        uplink: Uplink,
        *,
        width: int,
        time_share: float,
        least_accuracy: float = 0.0,
    ) -> None:
        """Prepare the rungs.

        Args:
            widest: What is sent while the way up is fast.
            links: The bundle's thin links.
            uplink: What is known of the way up.
            width: Dimensions of the model's hidden states.
            time_share: Share of a request's time that may pass until its outcome is back.
            least_accuracy: Of a budget, by the bundle's record; poorer ones are never sent.

        Raises:
            ConfigError: The widest thinness is none of the bundle's.
        """
        check_thinness(widest, links)
        self._climbs = {
            point: _Climb(rungs(widest, link, width=width, least_accuracy=least_accuracy), link, uplink, width)
            for point, link in links.items()
        }
        self._plain = _Climb(rungs(widest, None, width=width), None, uplink, width)
        self._time_share = time_share
        self._lock = threading.Lock()
        self._cap = 0

    def cap(self, budget: int) -> None:
        """Allow no more dimensions per token than this from now on, where there is a link; 0 lifts the cap."""
        with self._lock:
            self._cap = budget

    def choose(self, split_point: int, tokens: int, budget_ms: float) -> Thinness:
        """Give the widest rung that fits."""
        with self._lock:
            return self._climbs.get(split_point, self._plain).choose(tokens, budget_ms * self._time_share, self._cap)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Offer:
    """A rung, for one message."""

    rung: Thinness
    num_bytes: int
    usual_bytes: int  # of a message of the usual length

    def fits(self, pace: Pace, limit_ms: float, *, margin: float = 1.0) -> bool:
        is_timely = pace.expected_ms(self.num_bytes) <= limit_ms * margin
        return is_timely and pace.load(self.usual_bytes) <= _MAX_LOAD * margin


class _Climb:
    """A place on the ladder of one split point."""

    def __init__(self, ladder: Sequence[Thinness], link: ThinLink | None, uplink: Uplink, width: int) -> None:
        self._ladder, self._link, self._uplink, self._width = ladder, link, uplink, width
        self._tokens = float(USUAL_TOKENS)
        self._place = 0
        self._fits = 0  # messages in a row that a wider rung would have suited
        self._reach = 0  # the widest place that would have suited all of them
        self._patience = _PATIENCE
        self._trusted_ms = 0.0  # per byte, when a wider rung was taken last
        self._stepped_at = 0  # messages sent before the last step
        self._was_wider = False  # the last step

    def choose(self, tokens: int, limit_ms: float, cap: int) -> Thinness:
        self._tokens += _TOKENS_SHARE * (tokens - self._tokens)
        offers = [self._offer(rung, tokens) for rung in self._allowed(cap)]
        self._place = min(self._place, len(offers) - 1)
        usual = self._uplink.usual()
        if offers[self._place].fits(usual, limit_ms):
            self._widen(offers, limit_ms)
        else:
            fitting = (place for place in range(self._place, len(offers)) if offers[place].fits(usual, limit_ms))
            self._take_thinner(next(fitting, len(offers) - 1))
        return offers[self._place].rung

    def _allowed(self, cap: int) -> Sequence[Thinness]:
        if self._link is None or not cap:
            return self._ladder
        budgets = self._link.budgets
        most = max((budget for budget in budgets if budget <= cap), default=budgets[0])
        capped = Thinness(codec="graded", budget=most, tokens=self._ladder[0].tokens)
        return [rung for rung in self._ladder if 0 < rung.budget <= cap] or [capped]

    def _offer(self, rung: Thinness, tokens: int) -> _Offer:
        here, usually = (message_bytes(rung, each, self._width, self._link) for each in (tokens, round(self._tokens)))
        return _Offer(rung=rung, num_bytes=here, usual_bytes=usually)

    def _take_thinner(self, place: int) -> None:
        stood = self._uplink.sent - self._stepped_at  # messages
        if self._was_wider and stood <= _LONGEST_PATIENCE:
            self._patience = min(2 * self._patience, _LONGEST_PATIENCE)
        elif stood > _PATIENCE:
            self._patience = _PATIENCE
        self._step(place, is_wider=False)

    def _widen(self, offers: Sequence[_Offer], limit_ms: float) -> None:
        best = self._uplink.best(self._stepped_at)
        reach = self._suiting(offers, best, limit_ms)
        if reach == self._place:
            self._fits = self._reach = 0
            return
        self._fits += 1
        self._reach = max(self._reach, reach)
        is_news = best.byte_ms < _CLEARLY * self._trusted_ms
        if self._fits >= (_PATIENCE if is_news else self._patience):
            self._uplink.trust(best)
            self._trusted_ms = best.byte_ms
            self._step(self._reach, is_wider=True)

    def _suiting(self, offers: Sequence[_Offer], pace: Pace, limit_ms: float) -> int:
        """Give the widest place that a message would suit with a margin, and that is not too long a leap."""
        most_bytes = _LEAP * offers[self._place].num_bytes
        for place in range(self._place):
            is_near = place == self._place - 1 or offers[place].num_bytes <= most_bytes
            if is_near and offers[place].fits(pace, limit_ms, margin=_WIDER_MARGIN):
                return place
        return self._place

    def _step(self, place: int, *, is_wider: bool) -> None:
        self._fits = self._reach = 0
        if place != self._place:
            self._place, self._stepped_at, self._was_wider = place, self._uplink.sent, is_wider
