"""Turns by rounds: every contestant on the same slice of texts, in an order that changes from round to round."""

import os
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from common.bench.field import Entrant, Field
from common.bench.parts import Told, Turn
from common.types import Tier

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a turn puts on a contestant."""

    texts_per_turn: int
    seconds_per_turn: float | None = None  # for which the texts are asked over and over; None: each of them once
    rounds: int
    in_flight: int = 1
    rate_hz: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One contestant's turn."""

    throughput_hz: float
    cpu_ms: float  # per request
    answers: tuple[Told, ...]
    load_average: float


@dataclass(slots=True, kw_only=True)
class Rounds:
    """All turns of one load, by contestant, in the order of the rounds."""

    by_name: dict[str, list[Round]] = field(default_factory=lambda: defaultdict(list))

    def answers(self, name: str) -> list[Told]:
        """Gather a contestant's answers of all rounds."""
        return [answer for each in self.by_name[name] for answer in each.answers]

    def figures(self, name: str, figure: Callable[[Round], float | None]) -> list[float]:
        """Take one figure of each of a contestant's rounds that have it."""
        return [found for each in self.by_name[name] if (found := figure(each)) is not None]

    def ratios(self, first: str, second: str, figure: Callable[[Round], float | None]) -> list[float]:
        """Divide the first's figure by the second's, round by round."""
        pairs = zip(self.by_name[first], self.by_name[second], strict=True)
        values = [(figure(one), figure(two)) for one, two in pairs]
        return [one / two for one, two in values if one is not None and two]


def progress_line(*, is_shown: bool) -> Progress:
    """Give what tells on a terminal's last line what is being done."""
    if not is_shown or not sys.stderr.isatty():
        return lambda _: None
    return lambda doing: print(f"\r\033[K{doing}", end="", file=sys.stderr, flush=True)  # noqa: T201


def slices(texts: Sequence[str], load: Load) -> Iterator[tuple[str, ...]]:
    """Give each round its texts: the next ones, or in timed turns, which may not come to the last, another first."""
    step = load.texts_per_turn if load.seconds_per_turn is None else len(texts) // load.rounds
    for number in range(load.rounds):
        start = number * step
        yield tuple(texts[(start + place) % len(texts)] for place in range(load.texts_per_turn))


def run_rounds(opened: Field, names: Sequence[str], load: Load, progress: Progress) -> Rounds:
    """Let every contestant take its turn in every round."""
    entrants = [opened.entrants[name] for name in names if name in opened.entrants]
    rounds = Rounds()
    for number, texts in enumerate(slices(opened.ground.texts, load)):
        shift = number % len(entrants)
        for entrant in entrants[shift:] + entrants[:shift]:
            progress(f"round {number + 1} of {load.rounds}: {entrant.name}")
            turn = Turn(
                texts=texts,
                seconds=load.seconds_per_turn,
                in_flight=load.in_flight,
                rate_hz=load.rate_hz,
                seed=number,
            )
            rounds.by_name[entrant.name].append(_one(entrant, turn))
    return rounds


def warm_up(opened: Field, texts: int = 32) -> None:
    """Let every contestant answer a few texts that nobody counts."""
    for entrant in opened.entrants.values():
        entrant.take_on_all_cores(Turn(texts=opened.ground.texts[:texts], in_flight=8))


def latencies(answers: Sequence[Told], tier: Tier | None = None) -> list[float]:
    """Sort the latencies of one tier's answers, or of all."""
    return sorted(answer.latency_ms for answer in answers if tier in (None, answer.tier))


def quantile(ordered: Sequence[float], share: float) -> float | None:
    """Take the nearest rank of ordered values; None of nothing."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None


def p50(each: Round) -> float | None:
    """Median latency of a round."""
    return quantile(latencies(each.answers), 0.5)


def edge_overhead_ms(each: Round) -> float | None:
    """Median over a round's edge answers of the time that is not the hops' compute."""
    found = [answer.latency_ms - answer.compute_ms for answer in each.answers if answer.tier is Tier.EDGE]
    return statistics.median(found) if found else None


def _one(entrant: Entrant, turn: Turn) -> Round:
    is_load = turn.in_flight > 1 or turn.rate_hz is not None
    turned, cpu_s = entrant.take_on_all_cores(turn) if is_load else entrant.take(turn)
    return Round(
        throughput_hz=len(turned.answers) / turned.elapsed_s,
        cpu_ms=cpu_s * 1000 / len(turned.answers),
        answers=turned.answers,
        load_average=os.getloadavg()[0],
    )
