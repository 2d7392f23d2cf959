"""Three times more work than a tier can do does not cost it what it can do."""

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest

from common.service.backlog import FairByDevice, InOrder
from common.service.lifecycle import Stopping
from common.service.runner import Runner
from common.transport.contract import Delivery, Inbox
from tests.service.test_backlog import names, request

SERVICE_S = 0.002  # per request
BUDGET_MS = 150.0


@dataclass
class Slow:
    """Takes its time, and counts what was done in time."""

    counters: Counter[str] = field(default_factory=Counter)

    def handle(self, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            time.sleep(SERVICE_S)
            self.counters["in_time"] += (time.monotonic() - delivery.received_at) * 1000 < BUDGET_MS
            self.counters[names([delivery])[0].split("-")[0]] += 1


def goodput(load: float, backlog: Any, *, seconds: float = 2.0) -> tuple[float, Counter[str]]:
    """Send at ``load`` times the capacity, four fifths of it from one device; give answers in time per second."""
    handler, inbox = Slow(), Inbox(100_000)
    payloads = [request(name, budget_ms=BUDGET_MS).payload for name in ("flood", "flood", "flood", "flood", "quiet")]
    with Runner("inference", inbox, handler, Stopping(), max_batch=4, backlog=backlog):
        started, sent = time.monotonic(), 0
        while (now := time.monotonic()) - started < seconds:
            while sent < (now - started) * load / SERVICE_S:
                inbox.put(Delivery("edge/request", payloads[sent % 5], now))
                sent += 1
            time.sleep(0.002)
        done = Counter(handler.counters)
        while inbox.get(0):  # what is left need not be worked off
            pass
    return done["in_time"] / seconds, done


@pytest.mark.timeout(60)
def test_throughput_under_threefold_overload_stays_near_its_peak() -> None:
    peak, _ = goodput(0.9, FairByDevice(256))
    overloaded, done = goodput(3.0, FairByDevice(256))
    in_order, _ = goodput(3.0, InOrder())

    print(f"peak {peak:.0f}/s, at 3x fair {overloaded:.0f}/s, at 3x in order {in_order:.0f}/s, {dict(done)}")  # noqa: T201
    assert overloaded > 0.9 * peak
    assert overloaded > 2 * in_order
    assert (
        done["quiet"] > 0.9 * 0.2 * 3.0 * min(2.0 / SERVICE_S, 1e9) * 0.5
    )  # its own share, however much the other sends


@dataclass
class Stalling:
    """Stalls once for longer than any budget, as a machine that sleeps, and is quick again from then on."""

    counters: Counter[str] = field(default_factory=Counter)

    def handle(self, deliveries: list[Delivery]) -> None:
        if self.counters["handled"] == 2:
            time.sleep(3 * BUDGET_MS / 1000)
        self.counters["handled"] += len(deliveries)


@pytest.mark.timeout(60)
def test_one_stall_longer_than_every_budget_does_not_end_all_work() -> None:
    handler, inbox = Stalling(), Inbox(100)
    pause, until = threading.Event(), time.monotonic() + 20
    with Runner("inference", inbox, handler, Stopping(), max_batch=1, backlog=FairByDevice(64)):
        while handler.counters["handled"] < 5 and time.monotonic() < until:
            inbox.put(Delivery("edge/request", request("one", budget_ms=BUDGET_MS).payload, time.monotonic()))
            pause.wait(0.02)

    assert handler.counters["handled"] >= 5
