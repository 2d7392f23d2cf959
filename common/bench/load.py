"""Load on one contestant: a closed loop, or arrivals at random."""

import random
import threading
import time
from concurrent.futures import Future
from typing import Any, Protocol

import msgspec

from common.bench.parts import Told, Turn, Turned


class Contestant(Protocol):
    """Answers texts; ``submit`` may block while it has as much in flight as it can hold."""

    def submit(self, text: str) -> Future[Any]:
        """Start to answer one text."""
        ...

    def tell(self, answer: Any) -> Told:
        """Say what an answer was; asked after the turn."""
        ...

    def finish(self) -> None:
        """Wait for what follows the last answer."""
        ...


def run_turn(contestant: Contestant, turn: Turn) -> Turned:
    """Put a turn's load on a contestant."""
    slots = threading.Semaphore(turn.in_flight)
    gaps = random.Random(turn.seed)  # noqa: S311 - arrivals, no secret
    futures: list[Future[Any]] = []
    latencies = [0.0] * len(turn.texts)
    started = arrival = time.perf_counter()
    for place, text in enumerate(turn.texts):
        if turn.rate_hz is None:
            slots.acquire()
            arrival = time.perf_counter()
        else:
            arrival += gaps.expovariate(turn.rate_hz)
            time.sleep(max(0.0, arrival - time.perf_counter()))
        future = contestant.submit(text)
        future.add_done_callback(_Stopwatch(latencies, place, arrival, slots))
        futures.append(future)
    results = [future.result() for future in futures]
    contestant.finish()
    elapsed_s = time.perf_counter() - started
    answers = tuple(
        msgspec.structs.replace(contestant.tell(result), latency_ms=latency * 1000)
        for latency, result in zip(latencies, results, strict=True)
    )
    return Turned(answers=answers, elapsed_s=elapsed_s)


class _Stopwatch:
    """Notes a latency and frees a place in flight."""

    __slots__ = ("_arrival", "_latencies", "_place", "_slots")

    def __init__(self, latencies: list[float], place: int, arrival: float, slots: threading.Semaphore) -> None:
        self._latencies, self._place, self._arrival, self._slots = latencies, place, arrival, slots

    def __call__(self, _future: Future[Any]) -> None:
        self._latencies[self._place] = time.perf_counter() - self._arrival
        self._slots.release()
