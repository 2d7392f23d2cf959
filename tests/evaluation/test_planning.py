"""Plans agree with the simulation, the front is undominated, and dear device layers move the start."""

from itertools import pairwise

import msgspec
import numpy as np
import pytest
from synthetic import make_trace

from common.engine.thinness import Thinness
from common.errors import ConfigError
from common.evaluation.planning import PlanPoint, choose_plan, pareto, plan
from common.evaluation.profile import LinkProfile, Profile, TierProfile
from common.evaluation.simulation import message_bytes, route_costs, simulate
from common.evaluation.thin_plans import Sending
from common.routing.exits import ConfidenceCascade
from common.types import Depths, Tier

PROFILE = Profile(
    device=TierProfile(layer_ms=10),
    edge=TierProfile(layer_ms=2),
    cloud=TierProfile(layer_ms=1),
    device_edge=LinkProfile(latency_ms=5),
    edge_cloud=LinkProfile(latency_ms=20),
    device_cloud=LinkProfile(latency_ms=22),
)
TRACE = make_trace(300, exits=(1, 2, 3, 4))
SPLIT = Depths(device=2, edge=3, cloud=4)
THIN = Thinness(codec="graded", budget=8)
POINTS = plan(TRACE, PROFILE, codecs=("int8",))


def test_sweep_holds_every_split_entry_and_threshold() -> None:
    assert len(POINTS) == 3 * 3 * 51  # splits of four exits, entry tiers, thresholds
    assert len({(p.depths, p.entry, p.threshold) for p in POINTS}) == len(POINTS)


def test_plan_point_agrees_with_the_simulated_policy() -> None:
    point = next(p for p in POINTS if p.entry is Tier.DEVICE and p.threshold == 0.8 and p.depths.device == 2)
    policy = ConfidenceCascade(thresholds={1: 0.8, 2: 0.8, 3: 0.8})

    routes = simulate(policy, TRACE, point.depths)
    costs = PROFILE.cost_model(0.0)

    assert point.accuracy == pytest.approx((routes.predictions == TRACE.labels).mean())
    assert point.latency_ms == pytest.approx(PROFILE.latency_ms(routes, TRACE, point.depths).mean(), rel=1e-3)
    assert point.cost == pytest.approx(route_costs(routes, TRACE, point.depths, costs).mean(), rel=1e-3)


def test_front_is_undominated_and_holds_the_cheapest() -> None:
    front = pareto(POINTS)

    def values(p: PlanPoint) -> np.ndarray:
        return np.array([-p.accuracy, p.latency_ms, p.payload_bytes_per_request, p.cost])

    for point in front:
        assert not any((values(o) <= values(point)).all() and (values(o) < values(point)).any() for o in POINTS)
    assert min(p.cost for p in front) == min(p.cost for p in POINTS)
    assert all(first.cost <= second.cost for first, second in pairwise(front))


def test_what_is_lost_over_a_thin_link_is_taken_off_whole_and_its_bytes_count_per_link() -> None:
    thin = {2: [Sending(thinness=THIN, sizes=np.full(len(TRACE), 100.0), lost=0.01)]}

    points = plan(TRACE, PROFILE, codecs=("int8",), depths=SPLIT, thin=thin)

    found = [p for p in points if p.device_sends == THIN]
    assert len(points) == len(POINTS) + len(found)
    assert {(p.depths, p.entry, p.edge_sends.codec) for p in found} == {(SPLIT, Tier.DEVICE, "int8")}
    for point in found:
        whole = next(p for p in POINTS if (p.depths, p.entry, p.threshold) == (SPLIT, Tier.DEVICE, point.threshold))
        exits = routes(point)
        travels, onward = exits > 1, exits > 2
        onward_bytes = message_bytes(TRACE.tokens, TRACE.features.shape[1], "int8", hops=1)
        assert point.accuracy == pytest.approx(whole.accuracy - min(0.01, travels.mean()))
        assert point.drop_points == pytest.approx(whole.drop_points + 100 * min(0.01, travels.mean()))
        assert point.payload_bytes_per_request == pytest.approx((100 * travels + onward_bytes * onward).mean())
        assert point.shares == whole.shares


def routes(point: PlanPoint) -> np.ndarray:
    asked = {} if point.threshold is None else dict.fromkeys((1, 2, 3), point.threshold)
    policy = ConfidenceCascade(thresholds=asked)
    return simulate(policy, TRACE, point.depths).exits


@pytest.mark.parametrize(("lost", "mbit_s", "is_thin"), [(0.0, 0.1, True), (0.5, 0.1, False)])
def test_a_slow_link_is_crossed_thin_where_little_is_lost(lost: float, mbit_s: float, is_thin: bool) -> None:
    slow = msgspec.structs.replace(PROFILE, device_edge=LinkProfile(latency_ms=5, mbit_s=mbit_s))
    thin = {2: [Sending(thinness=THIN, sizes=np.full(len(TRACE), 100.0), lost=lost)]}

    front = pareto(plan(TRACE, slow, codecs=("int8",), depths=SPLIT, thin=thin))
    found = [point for point in front if point.depths == SPLIT and point.shares["device"] < 0.9]

    assert any(point.device_sends == THIN for point in found if point.drop_points < 5) is is_thin


def test_inputs_start_on_the_edge_where_device_layers_are_dear() -> None:
    slow = msgspec.structs.replace(PROFILE, device=TierProfile(layer_ms=100))
    fast = msgspec.structs.replace(PROFILE, device=TierProfile(layer_ms=1))

    starts = [
        choose_plan(pareto(plan(TRACE, profile, codecs=("int8",))), max_drop_points=0.5).entry
        for profile in (slow, fast)
    ]

    assert starts[0] is not Tier.DEVICE
    assert starts[1] is Tier.DEVICE


def test_impossible_limits_name_the_quickest() -> None:
    with pytest.raises(ConfigError, match="the quickest with that drop takes"):
        choose_plan(pareto(POINTS), max_drop_points=0.5, max_latency_ms=0.1)
