"""Fits a bundle's routing table on its kept-back split: every policy that the tiers can run, each by its own rule."""

from collections.abc import Sequence
from dataclasses import replace

import msgspec
import numpy as np

from common.evaluation import families
from common.evaluation.families import Family, Point, Sweep
from common.evaluation.metrics import Metric, score
from common.evaluation.scoring import Setting
from common.evaluation.simulation import Routes, exit_tiers, route_costs, simulate
from common.evaluation.trace import Trace
from common.routing.entry import Dimee, Fixed, RandomEntry
from common.routing.evidence import Floats
from common.routing.exits import Patience
from common.routing.fit_router import fit_exit_head, proxy_labels
from common.routing.fitting import fit_cartography_pools, fit_dimee, fit_pools, same_thresholds
from common.routing.policies import AnyPolicy, RoutingTable
from common.routing.router import LearnedRouter
from common.types import TIERS

DEFAULT = "confidence-cascade"

_ALPHAS = (0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.97, 0.99)
_EASY_MEANS = (0.6, 0.7, 0.8, 0.9)
_VARIABLE = 0.2


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """How policies choose their operating points on the kept-back split."""

    max_drop: float = 0.003  # estimated drop of the metric on the kept-back split, 0..1
    min_reduction: float = 0.62  # the default takes the least drop that saves this much, if it can


def fit_table(trace: Trace, setting: Setting, target: Target | None = None) -> RoutingTable:
    """Fit every deployable policy; those that need what the trace lacks are left out.

    Args:
        trace: The kept-back split.
        setting: Depths and cost model that the operating points are chosen for.
        target: What they are chosen by.
    """
    target = target or Target()
    policies: dict[str, AnyPolicy] = {
        f"{tier}-only": Fixed(tier=tier, layer=setting.depths.of(tier)) for tier in TIERS[::-1]
    }
    policies |= _fit_cascades(trace, setting, target)
    policies["patience"] = fit_patience(trace, setting, target)
    policies |= fit_dimee_policies(trace, setting, target)
    policies["random"] = RandomEntry(shares=_shares(simulate(policies[DEFAULT], trace, setting.depths), trace, setting))
    return RoutingTable(default=DEFAULT, policies=policies)


def fit_router(trace: Trace) -> LearnedRouter:
    """Train the heads of every exit but the last by proxy supervision; thresholds are still to be chosen."""
    is_right = trace.predictions() == trace.labels  # [E, N]
    heads = {
        evidence.layer: fit_exit_head(evidence, proxy_labels(is_right[place], is_right[-1]))
        for place, evidence in enumerate(trace.exit_evidence()[:-1])
    }
    return LearnedRouter(heads=heads, thresholds={})


def fit_patience(trace: Trace, setting: Setting, target: Target) -> Patience:
    """Take the least patience whose drop is within the target."""
    candidates = [Patience(patience=patience) for patience in range(len(trace.exits))]
    return next((policy for policy in candidates if _drop(policy, trace, setting) <= target.max_drop), candidates[-1])


def fit_dimee_policies(trace: Trace, setting: Setting, target: Target) -> dict[str, AnyPolicy]:
    """Fit DIMEE pure and with fallback, and DIMEC-DC where the epochs are known."""
    pools = {alpha: fit_pools(_at_tiers(trace, setting), trace.labels, alpha) for alpha in _ALPHAS}
    pure = [fit_dimee(trace.features, found, {}, has_fallback=False) for found in pools.values()]
    fallback = [
        fit_dimee(trace.features, found, same_thresholds(alpha, setting.depths), has_fallback=True)
        for alpha, found in pools.items()
    ]
    fitted: dict[str, AnyPolicy] = {
        "dimee-pure": _cheapest(pure, trace, setting, target),
        "dimee": _cheapest(fallback, trace, setting, target),
    }
    if trace.probabilities_by_epoch is not None:
        candidates = _fit_cartography(trace, trace.probabilities_by_epoch, setting)
        fitted["dimec-dc"] = _cheapest(candidates, trace, setting, target)
    return fitted


def choose(points: list[Point], full_cost: float, target: Target) -> Point:
    """The least drop among the points that save enough; where none does, the cheapest within the allowed drop."""
    saving = [point for point in points if 1 - point.cost / full_cost >= target.min_reduction]
    if saving and min(point.drop for point in saving) <= target.max_drop:
        return min(saving, key=lambda point: (point.drop, point.cost))
    return families.cheapest_within(points, target.max_drop)


def measured_path(sweep: Sweep, trace: Trace, metric: Metric) -> list[Point]:
    """Trade-off points of a family whose drops are of the task's metric."""
    predictions = trace.predictions()  # [E, N]
    reference = score(metric, predictions[-1], trace.labels)
    samples = np.arange(len(trace))
    return [
        replace(
            point, drop=reference - score(metric, predictions[sweep.route(point.thresholds), samples], trace.labels)
        )
        for point in families.path(sweep)
    ]


def _fit_cascades(trace: Trace, setting: Setting, target: Target) -> dict[str, AnyPolicy]:
    kinds = (families.confidence_family(), families.entropy_family(), families.router_family(fit_router(trace)))
    return {family.name: _fit_family(family, trace, setting, target) for family in kinds}


def _fit_family(family: Family, trace: Trace, setting: Setting, target: Target) -> AnyPolicy:
    sweep: Sweep = families.prepare(family, trace, setting.depths, setting.cost)
    points = measured_path(sweep, trace, setting.metric)
    return families.policy_at(family, sweep, choose(points, setting.cost.cloud_only(setting.depths), target))


def _fit_cartography(trace: Trace, epochs: Floats, setting: Setting) -> list[Dimee]:
    at_device, at_edge = (epochs[:, trace.exits.index(depth)] for depth in (setting.depths.device, setting.depths.edge))
    return [
        fit_dimee(
            trace.features,
            fit_cartography_pools(at_device, at_edge, easy=easy, variable=_VARIABLE),
            same_thresholds(easy, setting.depths),
            has_fallback=True,
        )
        for easy in _EASY_MEANS
    ]


def _cheapest(policies: Sequence[Dimee], trace: Trace, setting: Setting, target: Target) -> Dimee:
    """The cheapest within the allowed drop; the least drop where none is."""
    drops = [_drop(policy, trace, setting) for policy in policies]
    costs = [_cost(policy, trace, setting) for policy in policies]
    allowed = [place for place, drop in enumerate(drops) if drop <= target.max_drop]
    if allowed:
        return policies[min(allowed, key=lambda place: costs[place])]
    return policies[int(np.argmin(drops))]


def _at_tiers(trace: Trace, setting: Setting) -> tuple[np.ndarray, np.ndarray]:
    probabilities = trace.probabilities()
    at_device, at_edge = (
        probabilities[trace.exits.index(depth)] for depth in (setting.depths.device, setting.depths.edge)
    )
    return at_device, at_edge


def _drop(policy: AnyPolicy, trace: Trace, setting: Setting) -> float:
    routes = simulate(policy, trace, setting.depths)
    reference = score(setting.metric, trace.predictions()[-1], trace.labels)
    return reference - score(setting.metric, routes.predictions, trace.labels)


def _cost(policy: AnyPolicy, trace: Trace, setting: Setting) -> float:
    routes = simulate(policy, trace, setting.depths)
    return float(route_costs(routes, trace, setting.depths, setting.cost).mean())


def _shares(routes: Routes, trace: Trace, setting: Setting) -> tuple[float, float, float]:
    counts = np.bincount(exit_tiers(routes, trace, setting.depths), minlength=len(TIERS))
    device, edge = (round(float(count / len(trace)), 4) for count in counts[:2])
    return device, edge, round(1 - device - edge, 4)
