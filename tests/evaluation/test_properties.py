"""What must hold of any trace and any prices."""

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import make_trace

from common.evaluation.baselines import oracle
from common.evaluation.simulation import Routes, exit_tiers, route_costs, simulate
from common.evaluation.trace import Trace
from common.routing.cost import CostModel
from common.routing.exits import ConfidenceCascade, EntropyCascade, Patience
from common.routing.policies import Policy
from common.types import Depths, Tier

DEPTHS = Depths(device=2, edge=4, cloud=6)
CHANCE = st.floats(0.5, 1.0)
PRICE = st.floats(0.0, 20.0)
COSTS = st.builds(
    CostModel,
    device_layer=PRICE,
    edge_layer=PRICE,
    cloud_layer=PRICE,
    device_edge=PRICE,
    device_cloud=PRICE,
    edge_cloud=PRICE,
)


def right(routes: Routes, trace: Trace) -> int:
    return int((routes.predictions == trace.labels).sum())


def a_policy(first: float, second: float, patience: int) -> list[Policy]:
    return [
        ConfidenceCascade(thresholds={2: first, 4: second}),
        EntropyCascade(thresholds={1: 1 - first, 3: 1 - second}),
        Patience(patience=patience),
    ]


@settings(max_examples=40)
@given(seed=st.integers(0, 50), cost=COSTS, first=CHANCE, second=CHANCE, patience=st.integers(0, 5))
def test_oracle_is_never_beaten(seed: int, cost: CostModel, first: float, second: float, patience: int) -> None:
    trace = make_trace(60, seed=seed, labels=3)
    best = oracle(trace, DEPTHS, cost)
    best_cost = route_costs(best, trace, DEPTHS, cost).sum()

    for policy in a_policy(first, second, patience):
        routes = simulate(policy, trace, DEPTHS)
        assert right(routes, trace) <= right(best, trace)
        if right(routes, trace) == right(best, trace):
            assert best_cost <= route_costs(routes, trace, DEPTHS, cost).sum() + 1e-9


@settings(max_examples=40)
@given(seed=st.integers(0, 50), cost=COSTS, thresholds=st.lists(CHANCE, min_size=2, max_size=2), down=st.floats(0, 0.3))
def test_cost_falls_as_thresholds_fall(seed: int, cost: CostModel, thresholds: list[float], down: float) -> None:
    trace = make_trace(60, seed=seed)
    strict = ConfidenceCascade(thresholds={2: thresholds[0], 4: thresholds[1]})
    loose = ConfidenceCascade(thresholds={2: max(0, thresholds[0] - down), 4: max(0, thresholds[1] - down)})

    costs = [route_costs(simulate(policy, trace, DEPTHS), trace, DEPTHS, cost) for policy in (strict, loose)]

    assert (costs[1] <= costs[0] + 1e-9).all()


@settings(max_examples=40)
@given(seed=st.integers(0, 50), cost=COSTS, more=st.floats(0, 10))
def test_dearer_offloads_are_never_chosen_more_often(seed: int, cost: CostModel, more: float) -> None:
    """Every link at once: a link made dearer alone sends inputs over the others."""
    trace = make_trace(60, seed=seed)
    dearer = msgspec.structs.replace(
        cost,
        device_edge=cost.device_edge + more,
        device_cloud=cost.device_cloud + more,
        edge_cloud=cost.edge_cloud + more,
    )

    before, after = (exit_tiers(oracle(trace, DEPTHS, price), trace, DEPTHS) for price in (cost, dearer))

    assert (after > 0).sum() <= (before > 0).sum()


@given(entry=st.sampled_from(Tier), layer=st.integers(1, 6))
def test_starting_on_the_device_is_never_dearer_under_paper_prices(entry: Tier, layer: int) -> None:
    """Where a layer costs the same on every tier and links add up, no entry decision can save anything."""
    cost = CostModel()

    assert cost.of_route(Tier.DEVICE, layer, DEPTHS) <= cost.of_route(entry, layer, DEPTHS)
