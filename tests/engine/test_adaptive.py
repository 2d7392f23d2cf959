"""Thinness by the uplink, on a simulated way up: rich where it is fast, thin where it is slow, steady on both."""

import heapq
from itertools import pairwise

import pytest

from common.engine.adaptive import Adaptive, message_bytes, rungs
from common.engine.thinness import Thinness
from common.engine.uplink import Uplink
from common.errors import ConfigError
from common.model.thin_links import LinkEntry, Rung, ThinLink

WIDTH, TOKENS, BUDGET_MS, BUDGETS = 384, 25, 300.0, (8, 16, 32, 64, 128)
INT8 = Thinness(codec="int8")


class Known(ThinLink):
    """A link of known budgets and no matrices: the chooser never looks at them."""

    def __init__(self) -> None:
        self.entry = LinkEntry(
            split_point=2,
            file="f",
            rungs=tuple(Rung(budget=b, temperatures={}, accuracy=1.0, token_bytes=b / 4) for b in BUDGETS),
        )
        self._rungs = {rung.budget: rung for rung in self.entry.rungs}


LINK = Known()


class Way:
    """A queue in front of a link of so many bits a second, and requests that leave at a steady pace."""

    def __init__(self, *, gap_s: float = 0.07, is_adaptive: bool = True) -> None:
        self.now = 0.0
        self.uplink = Uplink(lambda: self.now)
        self.adaptive = Adaptive(INT8, {2: LINK}, self.uplink, width=WIDTH, time_share=0.5)
        self.is_adaptive = is_adaptive
        self.gap_s = gap_s
        self.is_free_at = 0.0
        self.arriving: list[tuple[float, float, str]] = []
        self.count = 0

    def run(self, seconds: float, bits_s: float) -> tuple[float, list[Thinness]]:
        """Send for a while; give the share of requests in time, and what they were sent as."""
        end, sent, in_time = self.now + seconds, [], []
        while self.now < end:
            chosen = self.adaptive.choose(2, TOKENS, BUDGET_MS) if self.is_adaptive else INT8
            size = message_bytes(chosen, TOKENS, WIDTH, LINK)
            self.count += 1
            self.uplink.left(str(self.count), size)
            self.is_free_at = max(self.is_free_at, self.now) + 8 * size / bits_s
            arrival = self.is_free_at + 0.015  # delay both ways, and 5 ms in the tiers
            in_time.append(arrival - self.now <= BUDGET_MS / 1000)
            heapq.heappush(self.arriving, (arrival, self.now, str(self.count)))
            sent.append(chosen)
            self._pass(self.now + self.gap_s)
        return sum(in_time) / len(in_time), sent

    def _pass(self, until: float) -> None:
        while self.arriving and self.arriving[0][0] <= until:
            self.now, left_at, request_id = heapq.heappop(self.arriving)
            if self.now - left_at > BUDGET_MS / 1000:
                self.uplink.given_up(request_id)
            else:
                self.uplink.arrived(request_id, 5.0)
        self.now = until


def switches(sent: list[Thinness]) -> int:
    return sum(one != other for one, other in pairwise(sent))


def test_requests_keep_their_time_when_the_link_falls_and_comes_back() -> None:
    way, fixed = Way(), Way(is_adaptive=False)

    shares = [way.run(20, bits_s)[0] for bits_s in (20e6, 0.5e6, 20e6)]
    without = [fixed.run(20, bits_s)[0] for bits_s in (20e6, 0.5e6, 20e6)]

    assert min(shares) >= 0.97
    assert without[1] < 0.5


def test_a_steady_link_gives_a_steady_rung() -> None:
    way = Way()
    way.run(5, 20e6)

    _, fast = way.run(20, 20e6)
    way.run(5, 0.5e6)
    _, slow = way.run(20, 0.5e6)

    assert set(fast) == {INT8}
    assert switches(slow) <= 2
    assert all(rung.codec == "graded" for rung in slow)


def test_a_link_that_came_back_is_used_again() -> None:
    way = Way()
    way.run(5, 20e6)
    way.run(10, 0.5e6)

    _, sent = way.run(15, 20e6)

    assert sent[0] != INT8
    assert sent[-1] == INT8
    assert switches(sent) <= len(rungs(INT8, BUDGETS))  # never back and forth


def test_missing_outcomes_make_messages_thinner_before_one_is_late() -> None:
    way = Way()
    way.run(3, 20e6)

    _, sent = way.run(0.3, 1e3)

    assert message_bytes(sent[-1], TOKENS, WIDTH, LINK) < message_bytes(sent[0], TOKENS, WIDTH) / 4


@pytest.mark.parametrize(("cap", "widest"), [(32, 32), (5, 8), (0, 0)])
def test_a_cap_bounds_the_dimensions_and_can_be_lifted(cap: int, widest: int) -> None:
    way = Way()
    way.adaptive.cap(16)

    way.adaptive.cap(cap)
    _, sent = way.run(1, 20e6)

    assert {rung.budget for rung in sent} == {widest}


def test_rungs_become_thinner_and_never_wider_than_configured() -> None:
    ladder = rungs(Thinness(codec="int8", budget=64, tokens=0.75), sorted(BUDGETS, reverse=True))
    sizes = [message_bytes(rung, TOKENS, WIDTH, LINK) for rung in ladder]

    assert sizes == sorted(sizes, reverse=True)
    assert {rung.budget for rung in ladder} == {64, 32, 16, 8}
    assert all(rung.tokens <= 0.75 for rung in ladder)


def test_the_widest_rung_must_be_the_bundle_s() -> None:
    with pytest.raises(ConfigError, match=r"link\.budget: 48"):
        Adaptive(Thinness(codec="int8", budget=48), {2: LINK}, Uplink(), width=WIDTH, time_share=0.5)
