"""Families of cascades: one readiness per exit and sample, and thresholds that trade cost against accuracy.

Sweeps work on arrays; a point that is kept becomes a policy record again, and decides the same.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.evaluation.simulation import Numbers, cost_table
from common.evaluation.trace import Trace
from common.routing.cost import CostModel
from common.routing.evidence import Indices, confidence, entropy
from common.routing.exits import ConfidenceCascade, EntropyCascade
from common.routing.policies import AnyPolicy
from common.routing.router import LearnedRouter
from common.types import Depths

NEVER = np.inf

_CANDIDATES = 40  # thresholds tried per exit, at quantiles of the readiness
_ROUNDS = 3  # of coordinate descent
_PRICES = np.geomspace(3, 3000, 16)  # layers that one answer's being right is worth, for a whole sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Cascades that differ in thresholds alone."""

    name: str
    readiness: Callable[[Trace], Numbers]  # [E - 1, N], larger is readier to answer
    policy: Callable[[dict[int, float]], AnyPolicy]  # from the least readiness that answers, by exit layer


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """One trace made ready for many thresholds."""

    exits: tuple[int, ...]
    readiness: Numbers  # [E - 1, N]
    is_right: NDArray[np.bool_]  # [E, N]
    costs: Numbers  # [E], from the device on

    def route(self, thresholds: Numbers) -> Indices:
        """First exit [N] whose readiness reaches its threshold [E - 1]; the last one else."""
        answers = self.readiness >= thresholds[:, None]  # [E - 1, N]
        exits: Indices = np.where(answers.any(axis=0), answers.argmax(axis=0), len(self.exits) - 1)
        return exits

    def harms(self, exits: Indices) -> Numbers:
        """Say of each sample [N] what leaving at ``exits`` costs: 1 a right answer lost, -1 one won, else 0."""
        here = self.is_right[exits, np.arange(self.is_right.shape[1])]
        lost: Numbers = self.is_right[-1].astype(np.float64) - here
        return lost


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Thresholds and what they gave on the trace they were chosen on."""

    thresholds: Numbers  # [E - 1]
    cost: float
    drop: float  # 0..1, of accuracy


def confidence_family() -> Family:
    """Top probability at least the threshold."""
    return Family(
        name="confidence-cascade",
        readiness=lambda trace: confidence(trace.probabilities()[:-1]).astype(np.float64),
        policy=lambda thresholds: ConfidenceCascade(thresholds=_finite(thresholds)),
    )


def entropy_family() -> Family:
    """Entropy at most the threshold (DeeBERT)."""
    return Family(
        name="entropy-cascade",
        readiness=lambda trace: -entropy(trace.probabilities()[:-1]).astype(np.float64),
        policy=lambda thresholds: EntropyCascade(
            thresholds={layer: max(0.0, -least) for layer, least in thresholds.items() if np.isfinite(least)}
        ),
    )


def router_family(router: LearnedRouter) -> Family:
    """Chance of being corrected at most the threshold."""

    def readiness(trace: Trace) -> Numbers:
        scores = [router.scores(evidence) for evidence in trace.exit_evidence()[:-1]]
        return 1 - np.stack(scores).astype(np.float64)

    return Family(
        name="learned-router",
        readiness=readiness,
        policy=lambda thresholds: LearnedRouter(
            heads=router.heads,
            thresholds={layer: 1 - least for layer, least in _finite(thresholds).items()},
            entry=router.entry,
            max_entry_score=router.max_entry_score,
        ),
    )


def prepare(family: Family, trace: Trace, depths: Depths, cost: CostModel) -> Sweep:
    """Make a trace ready to sweep a family."""
    return Sweep(
        exits=trace.exits,
        readiness=family.readiness(trace),
        is_right=trace.predictions() == trace.labels,
        costs=cost_table(trace.exits, depths, cost)[0],
    )


def path(sweep: Sweep) -> list[Point]:
    """Trade-off points from safe to daring: least cost + price·harm for ever cheaper errors, dominated ones dropped."""
    thresholds = np.full(len(sweep.exits) - 1, NEVER)
    points = [_point(sweep, thresholds)]
    for price in _PRICES[::-1]:
        thresholds = _descend(sweep, thresholds, price)
        points.append(_point(sweep, thresholds))
    return _by_falling_cost(points)


def cheapest_within(points: list[Point], drop: float) -> Point:
    """The cheapest point whose drop stays within ``drop``; the first one is always allowed."""
    return min((point for point in points[1:] if point.drop <= drop), key=lambda point: point.cost, default=points[0])


def policy_at(family: Family, sweep: Sweep, point: Point) -> AnyPolicy:
    """Make the record that decides as the point does."""
    return family.policy(dict(zip(sweep.exits[:-1], point.thresholds.tolist(), strict=True)))


def _descend(sweep: Sweep, start: Numbers, price: float) -> Numbers:
    thresholds = start.copy()
    for _ in range(_ROUNDS):
        before = thresholds.copy()
        for place in range(len(thresholds)):
            thresholds[place] = _best_threshold(sweep, thresholds, place, price)
        if np.array_equal(before, thresholds):
            break
    return thresholds


def _best_threshold(sweep: Sweep, thresholds: Numbers, place: int, price: float) -> float:
    """Scan one exit's threshold exactly: samples that come this far, sorted by readiness, leave or stay."""
    answers = sweep.readiness >= thresholds[:, None]
    arrives = ~answers[:place].any(axis=0)
    later = answers.copy()
    later[: place + 1] = False
    beyond = np.where(later.any(axis=0), later.argmax(axis=0), len(sweep.exits) - 1)
    right = sweep.is_right.astype(np.float64)
    samples = np.flatnonzero(arrives)
    gain = (sweep.costs[beyond] - sweep.costs[place])[samples]
    gain -= price * (right[beyond, np.arange(len(beyond))] - right[place])[samples]
    ready = sweep.readiness[place, samples]
    order = np.argsort(-ready, kind="stable")
    total = np.cumsum(gain[order])
    marks = np.unique(np.linspace(0, len(order) - 1, _CANDIDATES).astype(int)) if len(order) else np.array([], int)
    if not len(marks) or total[marks].max() <= 0:
        return NEVER
    return float(ready[order[marks[total[marks].argmax()]]])


def _point(sweep: Sweep, thresholds: Numbers) -> Point:
    exits = sweep.route(thresholds)
    return Point(
        thresholds=thresholds.copy(), cost=float(sweep.costs[exits].mean()), drop=float(sweep.harms(exits).mean())
    )


def _by_falling_cost(points: list[Point]) -> list[Point]:
    kept = points[:1]
    for point in points[1:]:
        if point.cost < kept[-1].cost:
            kept.append(point)
    return kept


def _finite(thresholds: dict[int, float]) -> dict[int, float]:
    return {layer: min(1.0, max(0.0, least)) for layer, least in thresholds.items() if np.isfinite(least)}
