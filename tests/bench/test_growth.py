"""The growth benchmark on a tiny bundle: what is sent is settled, and the knee is where the steps say."""

from pathlib import Path

import pytest
from tiny import sentences

from common.bench.field import Ground
from common.bench.growth.recording import Recordings
from common.bench.growth.report import as_markdown
from common.bench.growth.steps import Setup, Step, Usage, by_role, knee, measured, slope
from common.bench.growth.sweeps import Extent, conclude, sweep
from common.bench.parts import Flowed
from common.bench.report import context_of
from common.errors import ConfigError
from common.model.bundle import open_bundle
from common.types import Tier

TEXTS = tuple(dict.fromkeys(text for text, _ in sentences(60, seed=5)))
TIMELY_MS, LATE_MS = 200.0, 200.1  # a tenth of the default budget


def _step(
    rate_hz: float = 10.0, *, answered: int = 100, p95_ms: float = 10.0, edge: float = 0.5, idle: float = 0.5
) -> Step:
    flowed = Flowed(
        sent=100,
        answered=answered,
        refused={"overloaded": 100 - answered},
        unanswered=0,
        unsent=0,
        elapsed_s=2.0,
        p50_ms=5.0,
        p95_ms=p95_ms,
        p99_ms=p95_ms,
    )
    cores = {"broker": 0.1, "edge-1": edge, "edge-2": 0.2, "cloud-1": 0.1, "crowd": 0.3}
    return measured(
        Setup(rate_hz=rate_hz),
        flowed,
        Usage(lasted_s=2.5, cores=cores, idle_cores=idle, foreign_cores=0.0, edge_mb=100.0),
    )


def test_the_knee_is_at_the_last_rate_before_the_first_that_never_kept_up() -> None:
    up = [_step(10), _step(20, answered=99, p95_ms=TIMELY_MS), _step(30, answered=98), _step(40)]

    assert knee(up) is up[1]
    assert knee(up[:2]) is up[1]
    assert knee([*up, _step(30)]) is up[3]
    assert knee([_step(10, p95_ms=LATE_MS)]) is None


def test_cost_and_limit_of_a_step_follow_from_who_used_the_cores() -> None:
    step = _step(edge=0.95)

    assert step.throughput_hz == 50
    assert step.per_core_hz == pytest.approx(100 / (1.35 * 2.5))  # the crowd does not count
    assert by_role(step.cpu_ms)["edge"] == pytest.approx(1000 * 1.15 * 2.5 / 100)
    assert step.limit == "edge-1"
    assert _step(edge=0.95, idle=0.05).limit == "all cores"
    assert _step().limit == "nothing"


def test_the_slope_is_that_of_the_line_through_the_points() -> None:
    assert slope({1: 5.0, 10: 23.0, 100: 203.0}) == pytest.approx(2.0)


def test_recorded_requests_are_what_the_device_is_unsure_about(tiny_bundle: Path) -> None:
    bundle = open_bundle(tiny_bundle)

    offloaded = Recordings(bundle, "edge-only", TEXTS).requests()
    stretched = Recordings(bundle, "edge-only", TEXTS).requests(tokens=50)

    assert len(offloaded) == len(TEXTS)
    assert {(each.tier, each.message.split_point) for each in offloaded} == {(Tier.EDGE, 0)}
    assert {each.message.tensors[0].shape[0] for each in stretched} == {50}
    with pytest.raises(ConfigError, match="texts leaves the device; try edge-only"):
        Recordings(bundle, "device-only", TEXTS)


@pytest.mark.broker
@pytest.mark.e2e
def test_every_request_of_every_sweep_is_answered(tiny_bundle: Path, tmp_path: Path) -> None:
    ground = Ground(bundle=str(tiny_bundle), policy="edge-only", texts=TEXTS)
    extent = Extent(seconds=0.3, shares=(0.2,), devices=(1, 30), workers=((2, 1),), rounds=1, lengths=(8, 64))

    found = sweep(ground, extent, tmp_path, lambda _: None)
    growth = conclude(found, context_of(open_bundle(tiny_bundle), "edge-only", None, len(TEXTS)), 0.0, is_quick=True)

    steps = [*growth.rate, *growth.devices, *growth.workers, *growth.length]
    assert [step.setup.devices for step in growth.devices] == [1, 30, 1]
    assert [step.setup.tokens for step in growth.length] == [8, 64]  # the tiny bundle itself ends at 32
    assert all(step.flowed.answered == step.flowed.sent > 0 for step in steps)
    assert all(step.usage.edge_mb > 0 for step in steps)
    assert set(growth.workers[0].usage.cores) == {"broker", "crowd", "edge-1", "edge-2", "cloud-1"}
    assert f"{growth.capacity_hz:.0f} answers per second" in as_markdown(growth)
