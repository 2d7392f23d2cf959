"""Simulated routes are the tiers' own steps; scores are what a reader would compute by hand."""

import numpy as np
import pytest
from synthetic import make_trace

from common.evaluation.baselines import SplitEE, oracle, splitee
from common.evaluation.metrics import score
from common.evaluation.scoring import Setting, score_routes
from common.evaluation.simulation import route_bytes, route_costs, simulate
from common.evaluation.trace import Trace
from common.routing.cost import CostModel
from common.routing.entry import Dimee, Fixed
from common.routing.exits import ConfidenceCascade, Patience
from common.types import Depths, Tier

DEPTHS = Depths(device=2, edge=4, cloud=6)


def worked_trace() -> Trace:
    """Three samples, exits after 2, 4 and 6 layers; top probabilities by hand."""
    tops = {"a": (0.95, 0.6, 0.9), "b": (0.7, 0.97, 0.9), "c": (0.6, 0.6, 0.8)}
    names = {"a": (1, 1, 1), "b": (0, 1, 1), "c": (0, 0, 1)}
    logits = np.zeros((3, 3, 2), np.float32)
    for sample, key in enumerate(tops):
        for place in range(3):
            logits[place, sample, names[key][place]] = np.log(tops[key][place] / (1 - tops[key][place]))
    return Trace(
        exits=(2, 4, 6),
        temperatures=(1.0, 1.0, 1.0),
        logits=logits,
        pooled=np.zeros((3, 3, 0), np.float32),
        features=np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]], np.float32),
        tokens=np.array([10, 10, 20]),
        labels=np.array([1, 1, 1]),
    )


def test_cascade_worked_by_hand() -> None:
    trace = worked_trace()
    routes = simulate(ConfidenceCascade(thresholds={2: 0.9, 4: 0.9}), trace, DEPTHS)

    assert routes.exits.tolist() == [0, 1, 2]
    assert routes.predictions.tolist() == [1, 1, 1]
    # device 2; device 2 + link 3 + edge 2; that + link 2 + cloud 2
    assert route_costs(routes, trace, DEPTHS, CostModel()).tolist() == [2, 7, 11]
    sizes = route_bytes(routes, trace, DEPTHS)
    assert sizes[0] == 0
    assert 10 * 2 + 10 * 2 < sizes[1] < 10 * 2 + 10 * 2 + 250
    assert sizes[2] > 2 * (20 * 2 + 20 * 2)


def test_pure_dimee_runs_its_entry_tier_to_the_end() -> None:
    trace = worked_trace()
    policy = Dimee(centroids=((0.0, 0.0), (1.0, 0.0), (2.0, 0.0)), thresholds={}, has_fallback=False)

    routes = simulate(policy, trace, DEPTHS)

    assert routes.entries.tolist() == [0, 1, 2]
    assert routes.exits.tolist() == [0, 1, 2]
    # device 2; link 3 + edge 4; link 5 + cloud 6
    assert route_costs(routes, trace, DEPTHS, CostModel()).tolist() == [2, 7, 11]


def test_patience_and_single_tiers_worked_by_hand() -> None:
    trace = worked_trace()

    assert simulate(Patience(patience=1), trace, DEPTHS).exits.tolist() == [1, 2, 1]
    assert simulate(Fixed(tier=Tier.EDGE, layer=4), trace, DEPTHS).exits.tolist() == [1, 1, 1]
    assert simulate(Fixed(tier=Tier.CLOUD, layer=6), trace, DEPTHS).exits.tolist() == [2, 2, 2]


def test_oracle_takes_the_cheapest_right_exit() -> None:
    trace = worked_trace()

    routes = oracle(trace, DEPTHS, CostModel())

    assert routes.exits.tolist() == [0, 1, 2]
    assert route_costs(routes, trace, DEPTHS, CostModel()).tolist() == [2, 7, 11]


def test_splitee_worked_by_hand() -> None:
    """Arms 2, 4, 6 once each, then the largest bound; rewards C - 0.1·layers, less 0.5 when the last exit answers."""
    bandit = SplitEE(layers=(2, 4, 6), threshold=0.9)
    state = bandit.start()
    confidences = np.array([[0.95, 0.6, 0.9], [0.7, 0.97, 0.9], [0.6, 0.6, 0.8], [0.6, 0.99, 0.9]])

    exits = []
    for row in confidences:
        exit_, state = bandit.play(state, row)
        exits.append(exit_)

    # rewards 0.95 - 0.2 = 0.75, 0.97 - 0.4 = 0.57, 0.8 - 0.6 = 0.2; arm 2 again: unsure, so 0.9 - 0.2 - 0.5 = 0.2
    assert exits == [0, 1, 2, 2]
    assert state.plays.tolist() == [2, 1, 1]
    np.testing.assert_allclose(state.rewards, [(0.75 + 0.2) / 2, 0.57, 0.2])
    assert splitee(bandit, worked_trace()).exits.tolist() == [0, 1, 2]


def test_scores_worked_by_hand() -> None:
    trace = worked_trace()
    routes = {
        "cascade": simulate(ConfidenceCascade(thresholds={2: 0.9, 4: 0.9}), trace, DEPTHS),
        "device": simulate(Fixed(tier=Tier.DEVICE, layer=2), trace, DEPTHS),
    }

    scores = score_routes(trace, routes, Setting(depths=DEPTHS, resamples=200))

    assert scores["cascade"].accuracy == 1.0
    assert scores["cascade"].cost == pytest.approx((2 + 7 + 11) / 3)
    assert scores["cascade"].reduction == pytest.approx(1 - 20 / 33)
    assert scores["cascade"].shares == pytest.approx({"device": 1 / 3, "edge": 1 / 3, "cloud": 1 / 3})
    assert scores["device"].drop_points == pytest.approx(200 / 3)
    assert scores["device"].accuracy_by_tier == {"device": pytest.approx(1 / 3), "edge": None, "cloud": None}
    assert scores["cascade"].interval.drop_points.low == scores["cascade"].interval.drop_points.high == 0.0


def test_matthews_correlation_worked_by_hand() -> None:
    # TP 2, TN 1, FP 1, FN 1: (2·1 - 1·1) / sqrt(3·3·2·2)
    predictions, labels = np.array([1, 1, 0, 1, 0]), np.array([1, 1, 0, 0, 1])

    assert score("matthews", predictions, labels) == pytest.approx(1 / 6)
    assert score("matthews", np.ones(5, int), labels) == 0.0


def test_bootstrap_interval_covers_the_usual_normal_one() -> None:
    trace = make_trace(2000)
    routes = simulate(Fixed(tier=Tier.DEVICE, layer=2), trace, DEPTHS)

    found = score_routes(trace, {"device": routes}, Setting(depths=DEPTHS))["device"]
    harms = (trace.predictions()[-1] == trace.labels) * 1.0 - (routes.predictions == trace.labels)
    half = 100 * 1.96 * harms.std() / np.sqrt(2000)

    assert found.interval.drop_points.low == pytest.approx(found.drop_points - half, abs=0.15 * half)
    assert found.interval.drop_points.high == pytest.approx(found.drop_points + half, abs=0.15 * half)
