"""The whole benchmark: which fields are opened, what is measured on each, and the rows that come of it."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from common.bench.field import RIVALS, Field, Ground, open_field
from common.bench.measure import (
    Load,
    Progress,
    Round,
    Rounds,
    edge_overhead_ms,
    latencies,
    p50,
    quantile,
    run_rounds,
    warm_up,
)
from common.bench.parts import Link
from common.bench.report import DIMEE, Context, Document, Row, find, spread
from common.types import Tier

LOOPBACK = "loopback"
LAN = Link(delay_ms=2.0)
IN_FLIGHT = 16
MOSQUITTO, EMBEDDED = "mosquitto", "embedded"
ALONE = frozenset({"in-process", "pytorch-loop", "naive-mqtt", "ideal"})  # measured over loopback alone


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """How much is measured."""

    rivals: tuple[str, ...]
    rounds: int
    seconds: float  # of a turn under load
    latency_texts: int  # of a turn with one in flight
    links: Mapping[str, Link]  # of the way to the cloud, by name
    brokers: tuple[str, ...]


def wan(delay_ms: float, up_mbit: float) -> tuple[str, Link]:
    """Name a link to the cloud; the way down has five times the rate of the way up."""
    return f"wan-{delay_ms:g}ms-{up_mbit:g}mbit", Link(delay_ms=delay_ms, up_mbit=up_mbit, down_mbit=5 * up_mbit)


QUICK = Extent(
    rivals=("http-cloud", "in-process", "ideal"),
    rounds=3,
    seconds=2.0,
    latency_texts=40,
    links=dict([wan(20, 20), wan(50, 20)]),
    brokers=(MOSQUITTO, EMBEDDED),
)
FULL = Extent(
    rivals=RIVALS,
    rounds=5,
    seconds=5.0,
    latency_texts=120,
    links=dict([wan(20, 20), wan(50, 20), wan(20, 5), wan(20, 1)]),
    brokers=(MOSQUITTO, EMBEDDED),
)


class Suite:
    """One benchmark as it runs; ``document`` gives what it found."""

    def __init__(self, ground: Ground, context: Context, extent: Extent, progress: Progress) -> None:
        self.rows: list[Row] = []
        self.missing: dict[str, str] = {}
        self._ground, self._context, self._extent, self._progress = ground, context, extent, progress
        self._ratios: dict[str, dict[str, Any]] = {}
        self._shares: dict[str, float] = {}
        self._started = time.monotonic()

    def run(self) -> None:
        """Measure on each broker over loopback, then over shaped links."""
        first, *others = self._extent.brokers
        with self._opened(first, (DIMEE, *self._extent.rivals)) as opened:
            self._load(opened, first)
            self._idle(opened, first)
        for broker in others:
            with self._opened(broker, (DIMEE,)) as opened:
                self._idle(opened, broker)
        if self._extent.links:
            networked = tuple(name for name in self._extent.rivals if name not in ALONE)
            with self._opened(first, (DIMEE, *networked), is_shaped=True) as opened:
                self._shaped(opened, first, networked)

    def document(self, *, is_quick: bool) -> Document:
        """Give everything that was found."""
        efficiency = find(self.rows, "ideal", "efficiency")
        return Document(
            is_quick=is_quick,
            seconds=time.monotonic() - self._started,
            context=self._context,
            missing=self.missing,
            ratios=self._ratios,
            overhead_ms_p50={
                broker: row.median
                for broker in self._extent.brokers
                if (row := find(self.rows, DIMEE, "overhead at the edge", broker=broker))
            },
            efficiency=None if efficiency is None else efficiency.median,
            shares=self._shares,
            rows=self.rows,
        )

    @contextmanager
    def _opened(self, broker: str, names: Sequence[str], *, is_shaped: bool = False) -> Iterator[Field]:
        """Open a field, warm, and note who is missing."""
        self._progress(f"starting on {broker}")
        with open_field(self._ground, broker, names, is_shaped=is_shaped) as opened:
            self.missing |= opened.missing
            warm_up(opened)
            yield opened

    def _load(self, opened: Field, broker: str) -> None:
        """Throughput, efficiency, start-up, memory, and the tail at half load."""
        names = [DIMEE, *self._extent.rivals]
        load = self._under_load(in_flight=IN_FLIGHT)
        found = run_rounds(opened, names, load, self._progress)
        place = _Place(broker=broker, link=LOOPBACK, load=load)
        answers = found.answers(DIMEE)
        self._shares = {str(tier): sum(each.tier is tier for each in answers) / len(answers) for tier in Tier}
        for name in found.by_name:
            self._add(name, "throughput", "1/s", place, found.figures(name, lambda each: each.throughput_hz), found)
            self._add(
                name, "processor time", "ms per request", place, found.figures(name, lambda each: each.cpu_ms), found
            )
            ready = opened.entrants[name].ready
            self._add(name, "first answer", "s", place, [ready.first_answer_s], found)
            self._add(name, "resident memory", "MB", place, [ready.resident_mb], found)
        self._add(DIMEE, "hidden states sent", "bytes per request", place, [_mean_bytes(found)], found)
        for rival in self._extent.rivals:
            ratios = found.ratios(DIMEE, rival, lambda each: each.throughput_hz) if rival in found.by_name else []
            if ratios:
                measure = "efficiency" if rival == "ideal" else "throughput of dimee over it"
                self._add(rival, measure, "ratio", place, ratios, found)
                self._ratios.setdefault(rival, {})["throughput"] = spread(ratios)["median"]
        self._half_load(opened, place, found)

    def _under_load(self, *, in_flight: int = 1, rate_hz: float | None = None) -> Load:
        extent = self._extent
        return Load(
            texts_per_turn=len(self._ground.texts),
            seconds_per_turn=extent.seconds,
            rounds=extent.rounds,
            in_flight=in_flight,
            rate_hz=rate_hz,
        )

    def _half_load(self, opened: Field, place: "_Place", found: Rounds) -> None:
        rate = spread(found.figures(DIMEE, lambda each: each.throughput_hz))["median"] / 2
        load = self._under_load(rate_hz=rate)
        half = run_rounds(opened, [DIMEE], load, self._progress)
        at = _Place(broker=place.broker, link=place.link, load=load)
        for name, share in (("median at half load", 0.5), ("p99 at half load", 0.99)):
            self._add(DIMEE, name, "ms", at, half.figures(DIMEE, _at(share)), half)
        for tier in Tier:  # an answer from afar takes longer: the tail is theirs in part
            self._add(DIMEE, f"p99 at half load, by {tier}", "ms", at, half.figures(DIMEE, _at(0.99, tier)), half)

    def _idle(self, opened: Field, broker: str) -> None:
        """Latency with one in flight, and the overhead at the edge."""
        load = Load(texts_per_turn=self._extent.latency_texts, rounds=self._extent.rounds)
        names = [name for name in opened.entrants if name != "ideal"]
        found = run_rounds(opened, names, load, self._progress)
        place = _Place(broker=broker, link=LOOPBACK, load=load)
        self._latencies(found, place, names)
        overheads = found.figures(DIMEE, edge_overhead_ms)
        if overheads:
            self._add(DIMEE, "overhead at the edge", "ms", place, overheads, found)

    def _shaped(self, opened: Field, broker: str, rivals: Sequence[str]) -> None:
        load = Load(texts_per_turn=self._extent.latency_texts // 2, rounds=self._extent.rounds)
        for name, link in self._extent.links.items():
            opened.shape({"lan": LAN, "wan": link})
            found = run_rounds(opened, [DIMEE, *rivals], load, self._progress)
            self._latencies(found, _Place(broker=broker, link=name, load=load), [DIMEE, *rivals])

    def _latencies(self, found: Rounds, place: "_Place", names: Sequence[str]) -> None:
        for name in names:
            if name not in found.by_name:
                continue
            for measure, share in (("median latency", 0.5), ("p95 latency", 0.95), ("p99 latency", 0.99)):
                self._add(name, measure, "ms", place, found.figures(name, _at(share)), found)
            if name != DIMEE and (ratios := found.ratios(DIMEE, name, p50)):
                self._add(name, "median latency of dimee over it", "ratio", place, ratios, found)
                by_link = self._ratios.setdefault(name, {}).setdefault("latency_p50", {})
                by_link[place.link] = spread(ratios)["median"]

    def _add(  # noqa: PLR0917 - a row has its columns
        self, contestant: str, measure: str, unit: str, place: "_Place", values: Sequence[float], found: Rounds
    ) -> None:
        if not values:
            return
        averages = [each.load_average for each in found.by_name.get(contestant, ())] or [0.0]
        self.rows.append(
            Row(
                contestant=contestant,
                measure=measure,
                unit=unit,
                **spread(values),
                broker=place.broker,
                link=place.link,
                configuration=place.configuration,
                load_average=max(averages),
                context=self._context,
            )
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where and under which load a row was measured."""

    broker: str
    link: str
    load: Load

    @property
    def configuration(self) -> dict[str, float]:
        load = self.load
        optional = {"seconds_per_turn": load.seconds_per_turn, "rate_hz": load.rate_hz}
        return {
            "in_flight": load.in_flight,
            "texts_per_turn": load.texts_per_turn,
            "threads": 1,
            **{name: value for name, value in optional.items() if value is not None},
        }


def _at(share: float, tier: Tier | None = None) -> Callable[[Round], float | None]:
    return lambda each: quantile(latencies(each.answers, tier), share)


def _mean_bytes(found: Rounds) -> float:
    answers = found.answers(DIMEE)
    return sum(answer.sent_bytes for answer in answers) / len(answers)
