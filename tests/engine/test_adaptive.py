"""Thinness by the uplink, on a simulated way up: rich where it is fast, thin where it is slow, steady on both."""

import heapq
import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.engine.adaptive import Adaptive
from common.engine.ladder import APART, USUAL_TOKENS, message_bytes, rungs
from common.engine.thinness import Thinness
from common.engine.uplink import Uplink
from common.errors import ConfigError
from common.model.thin_links import LinkEntry, Rung, ThinLink
from common.types import Tier

WIDTH, TOKENS, BUDGET_MS = 384, 25, 300.0
RECORD = {8: 0.84, 16: 0.86, 32: 0.88, 64: 0.89, 96: 0.885, 128: 0.892, 192: 0.893, 256: 0.894}  # accuracy by budget
INT8 = Thinness(codec="int8")


class Known(ThinLink):
    """A link of known budgets and no matrices: the chooser never looks at them."""

    def __init__(self, record: dict[int, float]) -> None:
        self.entry = LinkEntry(
            split_point=2,
            file="f",
            rungs=tuple(Rung(budget=b, temperatures={}, accuracy=a, token_bytes=b / 4) for b, a in record.items()),
        )
        self._rungs = {rung.budget: rung for rung in self.entry.rungs}


LINK = Known(RECORD)


def graded(*budgets: int) -> list[Thinness]:
    return [Thinness(codec="graded", budget=budget) for budget in budgets]


class Way:
    """A queue in front of a link of so many bits a second, and requests that leave at a steady pace."""

    def __init__(
        self,
        *,
        gap_s: float = 0.07,
        is_adaptive: bool = True,
        cloud_every: int = 0,
        cloud_s: float = 0.0,
        jitter_s: float = 0.0,
    ) -> None:
        self.now = 0.0
        self.uplink = Uplink(lambda: self.now)
        self.adaptive = Adaptive(INT8, {2: LINK}, self.uplink, width=WIDTH, time_share=0.5, least_accuracy=0.88)
        self.is_adaptive = is_adaptive
        self.gap_s = gap_s
        self.cloud_every, self.cloud_s = cloud_every, cloud_s  # how often the cloud answers, and how much later
        self.jitter_s = jitter_s
        self.random = random.Random(1)
        self.is_free_at = 0.0
        self.arriving: list[tuple[float, float, str, Tier]] = []
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
            is_clouds = bool(self.cloud_every) and self.count % self.cloud_every == 0
            arrival = self.is_free_at + 0.015 + is_clouds * self.cloud_s  # delay both ways, and 5 ms in the tiers
            arrival += self.random.expovariate(1 / self.jitter_s) if self.jitter_s else 0.0
            in_time.append(arrival - self.now <= BUDGET_MS / 1000)
            tier = Tier.CLOUD if is_clouds else Tier.EDGE
            heapq.heappush(self.arriving, (arrival, self.now, str(self.count), tier))
            sent.append(chosen)
            self._pass(self.now + self.gap_s)
        return sum(in_time) / len(in_time), sent

    def _pass(self, until: float) -> None:
        while self.arriving and self.arriving[0][0] <= until:
            self.now, left_at, request_id, tier = heapq.heappop(self.arriving)
            if self.now - left_at > BUDGET_MS / 1000:
                self.uplink.given_up(request_id)
            else:
                self.uplink.arrived(request_id, 5.0, tier)
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
    way.run(10, 0.1e6)

    _, sent = way.run(5, 20e6)

    assert sent[0] == graded(32)[0]
    assert sent[-1] == INT8
    assert switches(sent) < 4  # rungs: over several at once, never back


def test_outcomes_that_come_from_farther_away_are_not_taken_for_a_slow_link() -> None:
    way = Way(cloud_every=4, cloud_s=0.06)
    way.run(5, 20e6)
    way.run(10, 0.5e6)

    way.run(5, 20e6)
    _, sent = way.run(10, 20e6)

    assert set(sent) == {INT8}


@settings(deadline=None)
@given(rate=st.floats(0.05e6, 50e6), jitter_ms=st.floats(0, 3), gap_s=st.floats(0.03, 1.0), fallen_s=st.integers(1, 20))
def test_a_steady_link_is_never_climbed_in_vain_more_often_than_patience_allows(
    rate: float, jitter_ms: float, gap_s: float, fallen_s: int
) -> None:
    way = Way(gap_s=gap_s, jitter_s=jitter_ms / 1000)
    way.run(5, 20e6)
    way.run(fallen_s, 0.2e6)
    way.run(5, rate)

    _, sent = way.run(300 * gap_s, rate)

    assert switches(sent) <= 16  # 8, 16, 32, 64, 128 messages of patience: five failed steps, and the way to them


@settings(deadline=None)
@given(rate=st.floats(0.1e6, 5e6), fallen_s=st.integers(5, 60))
def test_a_link_that_is_clearly_quicker_than_before_is_used_within_seconds(rate: float, fallen_s: int) -> None:
    way = Way()
    way.run(5, 20e6)
    way.run(fallen_s, rate)
    way.run(10, 50e6)

    _, sent = way.run(10, 50e6)

    assert set(sent) == {INT8}


def test_missing_outcomes_make_messages_thinner_before_one_is_late() -> None:
    way = Way()
    way.run(3, 20e6)

    _, sent = way.run(0.3, 1e3)

    assert message_bytes(sent[-1], TOKENS, WIDTH, LINK) < message_bytes(sent[0], TOKENS, WIDTH) / 4


@pytest.mark.parametrize(("cap", "widest"), [(64, 64), (5, 8), (0, 0)])
def test_a_cap_bounds_the_dimensions_and_can_be_lifted(cap: int, widest: int) -> None:
    way = Way()
    way.adaptive.cap(16)

    way.adaptive.cap(cap)
    _, sent = way.run(1, 20e6)

    assert {rung.budget for rung in sent} == {widest}


def test_a_cap_below_what_is_worth_sending_is_obeyed() -> None:
    way = Way()
    way.adaptive.cap(16)

    _, sent = way.run(1, 20e6)

    assert set(sent) == set(graded(16))


def test_rungs_are_those_that_are_worth_their_bytes() -> None:
    kept = rungs(INT8, LINK, width=WIDTH, least_accuracy=0.88)

    assert kept == [INT8, *graded(256, 128, 64, 32)]  # 192 is hardly thinner, 96 is beaten by 64, 16 and 8 are poor


def test_rungs_without_anything_worth_sending_end_with_int4() -> None:
    int4 = Thinness(codec="int4")

    assert rungs(INT8, None, width=WIDTH) == [INT8, int4]
    assert rungs(INT8, LINK, width=WIDTH, least_accuracy=0.99) == [INT8, int4]
    assert rungs(int4, None, width=WIDTH) == [int4]


@settings(deadline=None)
@given(
    record=st.dictionaries(st.integers(1, 383), st.floats(0, 1), min_size=1, max_size=12),
    budget=st.integers(0, 11),
    tokens=st.floats(0.1, 1),
    least=st.floats(0, 1),
)
def test_rungs_become_thinner_and_poorer_and_never_wider_than_configured(
    record: dict[int, float], budget: int, tokens: float, least: float
) -> None:
    link = Known(dict(sorted(record.items())))
    widest = Thinness(codec="int8", budget=link.budgets[budget] if budget < len(record) else 0, tokens=tokens)

    ladder = rungs(widest, link, width=WIDTH, least_accuracy=least)

    sizes = [message_bytes(rung, USUAL_TOKENS, WIDTH, link) for rung in ladder]
    shares = [record[rung.budget] for rung in ladder[1:] if rung.budget]
    assert ladder[0] == widest
    assert all(thick >= APART * thin for thick, thin in pairwise(sizes))
    assert shares == sorted(set(shares), reverse=True)
    assert all(share >= least for share in shares)
    assert all(rung.budget <= (widest.budget or WIDTH) for rung in ladder)


def test_the_widest_rung_must_be_the_bundle_s() -> None:
    with pytest.raises(ConfigError, match=r"link\.budget: 48"):
        Adaptive(Thinness(codec="int8", budget=48), {2: LINK}, Uplink(), width=WIDTH, time_share=0.5)
