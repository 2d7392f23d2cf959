"""Thresholds behind a link follow the rule of the default policy, and leave alone what is decided before it."""

from dataclasses import replace

import numpy as np
from synthetic import make_trace

from common.evaluation.behind_links import behind_link, fit_thresholds
from common.evaluation.scoring import Setting
from common.evaluation.simulation import simulate
from common.evaluation.table import Target
from common.evaluation.trace import Trace
from common.routing.exits import ConfidenceCascade
from common.types import Depths

SETTING = Setting(depths=Depths(device=1, edge=2, cloud=3))
TRACE = make_trace(600, exits=(1, 2, 3))
OWN = {1: 0.9, 2: 0.75}


def drop(trace: Trace, thresholds: dict[int, float]) -> float:
    routes = simulate(ConfidenceCascade(thresholds=thresholds), trace, SETTING.depths)
    return float((trace.predictions()[-1] == trace.labels).mean() - (routes.predictions == trace.labels).mean())


def test_a_link_that_blurs_an_exit_gets_a_threshold_that_keeps_the_drop() -> None:
    noise = np.random.default_rng(3).normal(size=TRACE.logits[1].shape) * 2
    blurred = np.stack([TRACE.logits[1] + noise, TRACE.logits[2]]).astype(np.float32)
    thinned = behind_link(TRACE, 1, blurred, {2: 1.0, 3: 1.0})
    target = Target(max_drop=0.01)

    (fitted,) = fit_thresholds(thinned, 1, OWN, SETTING, target).values()

    assert drop(thinned, OWN) > target.max_drop
    assert drop(thinned, OWN | {2: fitted}) < drop(thinned, OWN)
    assert drop(thinned, OWN | {2: fitted}) <= max(target.max_drop, drop(thinned, OWN | {2: 1.0}))


def test_nothing_is_chosen_where_no_exit_but_the_last_is_left() -> None:
    assert fit_thresholds(TRACE, 2, OWN, SETTING) == {}


def test_what_the_exits_up_to_the_link_say_stays() -> None:
    thinned = behind_link(TRACE, 1, TRACE.logits[1:] * 0, {2: 3.0, 3: 4.0})

    np.testing.assert_array_equal(thinned.logits[0], TRACE.logits[0])
    assert thinned.temperatures == (1.0, 3.0, 4.0)
    assert replace(thinned, logits=TRACE.logits, temperatures=TRACE.temperatures).exits == TRACE.exits
