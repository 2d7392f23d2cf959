"""Three times more work than a tier can do does not cost it what it can do; on a clock that only work moves."""

from collections import Counter
from collections.abc import Callable

import pytest

from common.service.backlog import Backlog, FairByDevice, InOrder
from common.service.lifecycle import Stopping
from common.service.runner import Runner
from common.transport.contract import Delivery, Inbox
from tests.service.test_backlog import names, request

SERVICE_S = 0.002  # per request
BUDGET_MS = 150.0


class Clock:
    """Stands for the module ``time``."""

    def __init__(self) -> None:
        self.now, self.end = 0.0, 2.0

    def monotonic(self) -> float:
        return self.now


class Arrivals(Inbox):
    """A request of each device in turn every ``gap_s``; who waits for the next one moves the clock there."""

    def __init__(self, clock: Clock, gap_s: float, *devices: str) -> None:
        super().__init__(1)
        self._clock = clock
        self._gap_s = gap_s
        self._payloads = [request(device, budget_ms=BUDGET_MS).payload for device in devices]
        self._count = 0

    def get_batch(self, most: int, timeout: float | None = None) -> list[Delivery] | None:  # noqa: ARG002 - an inbox's
        if self._clock.now >= self._clock.end:
            return None
        if timeout is None:
            self._clock.now = max(self._clock.now, self._count * self._gap_s)
        batch = []
        while (at := self._count * self._gap_s) <= self._clock.now:
            batch.append(Delivery("edge/request", self._payloads[self._count % len(self._payloads)], at))
            self._count += 1
        return batch


class Working:
    """Takes ``work_s`` for each request, and counts what was done before the end, and in time."""

    def __init__(self, clock: Clock, work_s: Callable[[int], float]) -> None:
        self.counters: Counter[str] = Counter()
        self._clock = clock
        self._work_s = work_s

    def handle(self, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            self._clock.now += self._work_s(self.counters.total())
            if self._clock.now < self._clock.end:
                is_in_time = (self._clock.now - delivery.received_at) * 1000 < BUDGET_MS
                self.counters[f"{names([delivery])[0].split('-')[0]} {'in time' if is_in_time else 'late'}"] += 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("common.service.runner.time", clock)
    monkeypatch.setattr("common.service.backlog.time", clock)
    return clock


def answered(clock: Clock, load: float, backlog: Backlog) -> Counter[str]:
    """Send at ``load`` times the capacity, four fifths of it from one device, and give what was done."""
    clock.now = 0.0
    arrivals = Arrivals(clock, SERVICE_S / load, "flood", "flood", "flood", "flood", "quiet")
    working = Working(clock, lambda _: SERVICE_S)
    Runner("inference", arrivals, working, Stopping(), max_batch=4, backlog=backlog)._run()
    return working.counters


def in_time(done: Counter[str]) -> int:
    return done["flood in time"] + done["quiet in time"]


def test_throughput_under_threefold_overload_stays_near_its_peak(clock: Clock) -> None:
    peak = answered(clock, 0.9, FairByDevice(256))
    overloaded = answered(clock, 3.0, FairByDevice(256))
    in_order = answered(clock, 3.0, InOrder())

    assert in_time(overloaded) > 0.9 * in_time(peak)
    assert in_time(overloaded) > 2 * in_time(in_order)
    assert overloaded["quiet in time"] > 0.9 * clock.end / SERVICE_S / 2  # its turns, however much the other sends


def test_one_stall_longer_than_every_budget_does_not_end_all_work(clock: Clock) -> None:
    clock.end = 20.0
    arrivals = Arrivals(clock, 0.02, "one")
    working = Working(clock, lambda done: 3 * BUDGET_MS / 1000 if done == 2 else 0.0)

    Runner("inference", arrivals, working, Stopping(), max_batch=1, backlog=FairByDevice(64))._run()

    assert working.counters["one late"] == 1
    assert working.counters["one in time"] > 0.7 * clock.end / 0.02
