"""The benchmark on a tiny bundle: every contestant answers, and every row says what it rests on."""

from pathlib import Path

import pytest
from tiny import sentences

from common.bench.contestants import Ideal, InProcess, Routes
from common.bench.field import Ground, open_field
from common.bench.load import run_turn
from common.bench.measure import Load, Round, Rounds, quantile, run_rounds, slices
from common.bench.parts import Turn
from common.bench.report import Context
from common.bench.suite import Extent, Suite
from common.evaluation.machine import this_machine
from common.model.bundle import open_bundle

TEXTS = tuple(dict.fromkeys(text for text, _ in sentences(60, seed=5)))


def _round(throughput_hz: float) -> Round:
    return Round(throughput_hz=throughput_hz, cpu_ms=1.0, answers=(), load_average=0.0)


def test_ratios_are_formed_round_by_round() -> None:
    rounds = Rounds(by_name={"dimee": [_round(10), _round(40)], "rival": [_round(5), _round(10)]})

    assert rounds.ratios("dimee", "rival", lambda each: each.throughput_hz) == [2.0, 4.0]


def test_a_quantile_is_the_nearest_rank() -> None:
    assert quantile([1.0, 2.0, 3.0, 4.0], 0.5) == 3.0
    assert quantile([1.0, 2.0, 3.0, 4.0], 0.99) == 4.0
    assert quantile([], 0.5) is None


def test_a_turn_keeps_the_order_of_its_texts_and_measures_each(tiny_bundle: Path) -> None:
    contestant = InProcess(open_bundle(tiny_bundle))

    turned = run_turn(contestant, Turn(texts=TEXTS[:5], in_flight=3))

    assert len(turned.answers) == 5
    assert all(answer.latency_ms > 0 for answer in turned.answers)
    assert turned.elapsed_s * 1000 >= max(answer.latency_ms for answer in turned.answers)


@pytest.mark.parametrize("rate_hz", [None, 2000.0])
def test_a_timed_turn_asks_its_texts_over_and_over(tiny_bundle: Path, rate_hz: float | None) -> None:
    contestant = InProcess(open_bundle(tiny_bundle))

    turned = run_turn(contestant, Turn(texts=TEXTS[:3], seconds=0.2, in_flight=2, rate_hz=rate_hz))

    assert len(turned.answers) > 3
    assert turned.elapsed_s >= 0.2


def test_each_round_of_timed_turns_begins_with_another_text() -> None:
    load = Load(texts_per_turn=4, seconds_per_turn=1.0, rounds=2)

    assert list(slices(("a", "b", "c", "d"), load)) == [("a", "b", "c", "d"), ("c", "d", "a", "b")]
    assert list(slices(("a", "b", "c"), Load(texts_per_turn=2, rounds=2))) == [("a", "b"), ("c", "a")]


def test_arrivals_at_a_rate_take_their_time(tiny_bundle: Path) -> None:
    contestant = InProcess(open_bundle(tiny_bundle))

    turned = run_turn(contestant, Turn(texts=TEXTS[:20], rate_hz=100.0, seed=1))

    assert turned.elapsed_s > 0.05


def test_the_ideal_runs_as_many_layers_as_the_policy_asks(tiny_bundle: Path) -> None:
    bundle = open_bundle(tiny_bundle)

    depths = Routes(bundle, "device-only", TEXTS).depths
    ideal = Ideal(bundle, "device-only", TEXTS)

    assert set(depths.values()) == {bundle.manifest.depths.device}
    assert len(run_turn(ideal, Turn(texts=TEXTS[:3])).answers) == 3


@pytest.mark.e2e
def test_the_field_answers_every_text_on_the_embedded_broker(tiny_bundle: Path) -> None:
    pytest.importorskip("amqtt", reason="the embedded broker needs dimee[edge]")
    ground = Ground(bundle=str(tiny_bundle), policy="confidence-cascade", texts=TEXTS)

    with open_field(ground, "embedded", ("dimee", "ideal")) as opened:
        found = run_rounds(opened, ("dimee", "ideal"), Load(texts_per_turn=30, rounds=2, in_flight=4), lambda _: None)

    assert [len(each.answers) for each in found.by_name["dimee"]] == [30, 30]
    assert all(answer.tier is not None for answer in found.answers("dimee"))
    assert all(each.throughput_hz > 0 for each in found.by_name["ideal"])


@pytest.mark.e2e
def test_a_benchmark_reports_ratios_and_names_the_machine_in_every_row(tiny_bundle: Path) -> None:
    pytest.importorskip("amqtt", reason="the embedded broker needs dimee[edge]")
    bundle = open_bundle(tiny_bundle)
    ground = Ground(bundle=str(tiny_bundle), policy="edge-only", texts=TEXTS)
    context = Context(
        machine=this_machine(),
        bundle="tiny",
        revision=bundle.revision,
        precision="float32",
        policy="edge-only",
        texts="made",
        num_texts=len(TEXTS),
    )
    extent = Extent(
        rivals=("in-process", "ideal"), rounds=2, seconds=0.3, latency_texts=10, links={}, brokers=("embedded",)
    )

    suite = Suite(ground, context, extent, lambda _: None)
    suite.run()
    document = suite.document(is_quick=True)

    assert document.efficiency is not None
    assert document.efficiency > 0
    assert document.overhead_ms_p50["embedded"] > 0
    assert document.ratios["in-process"]["latency_p50"]["loopback"] > 0
    assert document.shares["edge"] == 1.0
    assert {row.context.revision for row in document.rows} == {bundle.revision}
