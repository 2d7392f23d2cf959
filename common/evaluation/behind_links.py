"""Exits behind a thin link: the kept-back split as it comes out of a budget, and the thresholds it asks for."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from common.engine.thinness import Thinness
from common.evaluation import families
from common.evaluation.families import NEVER, Point, Sweep
from common.evaluation.metrics import score
from common.evaluation.scoring import Setting
from common.evaluation.table import Target, choose
from common.evaluation.thinning import Behind, Standing
from common.evaluation.trace import Trace
from common.model.thin_links import Rung
from common.routing.evidence import Floats
from common.routing.exits import Thresholds
from common.routing.fitting import fit_temperature


def fit_rung(behind: Behind, stood: Standing, trace: Trace, own: Thresholds, setting: Setting, *, budget: int) -> Rung:
    """Calibrate the exits behind a budget, sent as graded, on the kept-back split.

    Args:
        behind: The layers behind the link.
        stood: The kept-back texts at the split point.
        trace: The same texts without a link.
        own: Thresholds of the default policy; an exit without one there gets none here.
        setting: Depths, cost model and metric.
        budget: Dimensions per token.
    """
    thinness = Thinness(codec="graded", budget=budget)
    logits = behind.logits(stood.states, thinness)  # [exits, N, C]
    exits = [layer for layer in trace.exits if layer > stood.split_point]
    temperatures = {layer: fit_temperature(said, trace.labels) for layer, said in zip(exits, logits, strict=True)}
    thinned = behind_link(trace, stood.split_point, logits, temperatures)
    fitted = fit_thresholds(thinned, stood.split_point, own, setting)
    rows = behind.tensor_bytes(stood.states, thinness) - budget  # without the peaks
    return Rung(
        budget=budget,
        temperatures=temperatures,
        accuracy=round(float((logits[-1].argmax(axis=1) == trace.labels).mean()), 5),
        token_bytes=round(rows * len(stood.states) / sum(map(len, stood.states)), 2),
        thresholds={layer: threshold for layer, threshold in fitted.items() if layer in own},
    )


def behind_link(trace: Trace, split_point: int, logits: Floats, temperatures: Mapping[int, float]) -> Trace:
    """Let everything travel over a link: exits up to the split point stay as they are, those behind it say ``logits``.

    Args:
        trace: The same samples without a link.
        split_point: Where the link is.
        logits: [exits behind, N, C].
        temperatures: Of the exits behind, by layer.
    """
    before = sum(layer <= split_point for layer in trace.exits)
    calibrated = tuple(temperatures[layer] for layer in trace.exits[before:])
    return replace(
        trace,
        logits=np.concatenate([trace.logits[:before], logits]),
        temperatures=(*trace.temperatures[:before], *calibrated),
    )


def fit_thresholds(
    trace: Trace, split_point: int, own: Thresholds, setting: Setting, target: Target | None = None
) -> Thresholds:
    """Choose the thresholds of the exits behind a link by the rule of the default policy.

    What the device answers is decided before it leaves, so the thresholds up to the split point stay the policy's own.

    Args:
        trace: The kept-back split behind the link.
        split_point: Where the link is.
        own: The policy's thresholds without a link.
        setting: Depths, cost model and metric.
        target: What the default policy was chosen by.
    """
    behind = tuple(layer for layer in trace.exits if layer > split_point)
    if len(behind) < 2:
        return {}
    sweep = families.prepare(families.confidence_family(), trace, setting.depths, setting.cost)
    fixed = np.array([own.get(layer, NEVER) if layer <= split_point else NEVER for layer in trace.exits[:-1]])
    travels = sweep.route(fixed) == len(trace.exits) - 1  # [N]
    if not travels.any():
        return {}
    rest = trace.select(np.flatnonzero(travels)).restrict(behind)
    offered = families.path(families.prepare(families.confidence_family(), rest, setting.depths, setting.cost))
    before = len(trace.exits) - len(behind)
    points = [_point(sweep, trace, np.r_[fixed[:before], each.thresholds], setting) for each in offered]
    best = choose(points, setting.cost.cloud_only(setting.depths), target or Target())
    chosen = zip(behind[:-1], best.thresholds[before:].tolist(), strict=True)
    return {layer: min(threshold, 1.0) for layer, threshold in chosen}  # never is full confidence


def _point(sweep: Sweep, trace: Trace, thresholds: np.ndarray, setting: Setting) -> Point:
    exits, predictions = sweep.route(thresholds), trace.predictions()
    here = score(setting.metric, predictions[exits, np.arange(len(trace))], trace.labels)
    reference = score(setting.metric, predictions[-1], trace.labels)
    return Point(thresholds=thresholds, cost=float(sweep.costs[exits].mean()), drop=reference - here)
