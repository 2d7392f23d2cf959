"""Load on one contestant: a closed loop, or arrivals at random."""

import itertools
import random
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Any, Protocol

import msgspec

from common.bench.parts import Told, Turn, Turned


class Contestant(Protocol):
    """Answers texts; ``submit`` may block while it has as much in flight as it can hold."""

    def submit(self, text: str) -> Future[Any]:
        """Start to answer one text."""
        ...

    def submit_all(self, texts: Sequence[str]) -> Sequence[Future[Any]]:
        """Start to answer texts that wait together."""
        return [self.submit(text) for text in texts]

    def tell(self, answer: Any) -> Told:
        """Say what an answer was; asked after the turn."""
        ...

    def finish(self) -> None:
        """Wait for what follows the last answer."""
        ...


def run_turn(contestant: Contestant, turn: Turn) -> Turned:
    """Put a turn's load on a contestant."""
    slots = threading.Semaphore(turn.in_flight)
    futures: list[Future[Any]] = []
    latencies: list[float] = []
    started = time.perf_counter()
    texts = iter(turn.texts) if turn.seconds is None else _over_and_over(turn.texts, started + turn.seconds)
    waves = _closed_loop(texts, slots) if turn.rate_hz is None else _arrivals(texts, turn.rate_hz, turn.seed)
    for wave in waves:
        accepted = contestant.submit_all([text for _, text in wave])
        for future, (arrival, _) in zip(accepted, wave, strict=True):
            latencies.append(0.0)
            future.add_done_callback(_Stopwatch(latencies, len(futures), arrival, slots))
            futures.append(future)
    results = [future.result() for future in futures]
    contestant.finish()
    elapsed_s = time.perf_counter() - started
    answers = tuple(
        msgspec.structs.replace(contestant.tell(result), latency_ms=latency * 1000)
        for latency, result in zip(latencies, results, strict=True)
    )
    return Turned(answers=answers, elapsed_s=elapsed_s)


_Wave = list[tuple[float, str]]  # texts that wait together, each with its arrival by ``time.perf_counter``


def _over_and_over(texts: Sequence[str], until: float) -> Iterator[str]:
    """Give the texts from the first to the last and again, until a moment of ``time.perf_counter``."""
    return itertools.takewhile(lambda _: time.perf_counter() < until, itertools.cycle(texts))


def _closed_loop(texts: Iterator[str], slots: threading.Semaphore) -> Iterator[_Wave]:
    """Give the texts as places in flight become free."""
    while True:
        slots.acquire()
        free = 1
        while slots.acquire(blocking=False):
            free += 1
        now = time.perf_counter()
        if not (wave := [(now, text) for text in itertools.islice(texts, free)]):
            return
        yield wave


def _arrivals(texts: Iterator[str], rate_hz: float, seed: int) -> Iterator[_Wave]:
    """Give the texts as they arrive at random; who was busy meanwhile gets all that have arrived."""
    gaps = random.Random(seed)  # noqa: S311 - arrivals, no secret
    arrival = time.perf_counter()
    wave: _Wave = []
    for text in texts:
        arrival += gaps.expovariate(rate_hz)
        if wave and arrival > time.perf_counter():
            yield wave
            wave = []
        time.sleep(max(0.0, arrival - time.perf_counter()))
        wave.append((arrival, text))
    if wave:
        yield wave


class _Stopwatch:
    """Notes a latency and frees a place in flight."""

    __slots__ = ("_arrival", "_latencies", "_place", "_slots")

    def __init__(self, latencies: list[float], place: int, arrival: float, slots: threading.Semaphore) -> None:
        self._latencies, self._place, self._arrival, self._slots = latencies, place, arrival, slots

    def __call__(self, _future: Future[Any]) -> None:
        self._latencies[self._place] = time.perf_counter() - self._arrival
        self._slots.release()
