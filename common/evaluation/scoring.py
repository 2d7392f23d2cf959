"""Policies scored side by side on one trace."""

from collections.abc import Mapping

import msgspec
import numpy as np

from common.evaluation.metrics import Bootstrap, Interval, Labels, Metric, interval, score
from common.evaluation.simulation import Numbers, Routes, exit_tiers, route_bytes, route_costs
from common.evaluation.trace import Trace
from common.routing.cost import CostModel
from common.types import TIERS, Depths


class Intervals(msgspec.Struct, frozen=True, kw_only=True):
    """95 % intervals by paired bootstrap."""

    drop_points: Interval
    reduction: Interval


class PolicyScore(msgspec.Struct, frozen=True, kw_only=True):
    """What a policy would have given; ``drop_points`` and ``reduction`` are against cloud-only."""

    accuracy: float  # 0..1; under another metric than accuracy the metric's value
    drop_points: float  # of the metric, in hundredths
    cost: float  # mean per request
    reduction: float  # 1 - cost / cost of cloud-only
    shares: dict[str, float]  # of answers, by tier
    entry_shares: dict[str, float]
    accuracy_by_tier: dict[str, float | None]  # None where a tier answered nothing
    payload_bytes_per_request: float
    layers_per_request: float  # backbone layers behind an answer
    interval: Intervals


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """Under what a trace is scored."""

    depths: Depths
    cost: CostModel = CostModel()
    metric: Metric = "accuracy"
    codec: str = "int8"
    resamples: int = 2000


def score_routes(trace: Trace, routes: Mapping[str, Routes], setting: Setting) -> dict[str, PolicyScore]:
    """Score named routes; all share one bootstrap, so their intervals are paired."""
    names = list(routes)
    costs = np.stack([route_costs(routes[name], trace, setting.depths, setting.cost) for name in names])  # [K, N]
    predictions = np.stack([routes[name].predictions for name in names] + [trace.predictions()[-1]])  # [K + 1, N]
    bootstrap = Bootstrap(len(trace), resamples=setting.resamples)
    resampled_cost = bootstrap.means(costs.T)  # [R, K]
    resampled_score = bootstrap.scores(setting.metric, predictions, trace.labels)  # [R, K + 1]
    drops = 100 * (resampled_score[:, -1:] - resampled_score[:, :-1])
    cloud_only = setting.cost.cloud_only(setting.depths)
    return {
        name: _score(
            trace,
            routes[name],
            setting,
            costs[place],
            Intervals(
                drop_points=interval(drops[:, place]), reduction=interval(1 - resampled_cost[:, place] / cloud_only)
            ),
        )
        for place, name in enumerate(names)
    }


def _score(trace: Trace, routes: Routes, setting: Setting, costs: Numbers, intervals: Intervals) -> PolicyScore:
    tiers = exit_tiers(routes, trace, setting.depths)
    value = score(setting.metric, routes.predictions, trace.labels)
    reference = score(setting.metric, trace.predictions()[-1], trace.labels)
    return PolicyScore(
        accuracy=value,
        drop_points=100 * (reference - value),
        cost=float(costs.mean()),
        reduction=float(1 - costs.mean() / setting.cost.cloud_only(setting.depths)),
        shares=_shares(tiers),
        entry_shares=_shares(routes.entries),
        accuracy_by_tier={
            tier.value: _share_right(routes, trace.labels, tiers == place) for place, tier in enumerate(TIERS)
        },
        payload_bytes_per_request=float(route_bytes(routes, trace, setting.depths, setting.codec).mean()),
        layers_per_request=float(np.array(trace.exits)[routes.exits].mean()),
        interval=intervals,
    )


def _shares(tiers: Numbers | np.ndarray) -> dict[str, float]:
    return {tier.value: float((tiers == place).mean()) for place, tier in enumerate(TIERS)}


def _share_right(routes: Routes, labels: Labels, rows: np.ndarray) -> float | None:
    return float((routes.predictions[rows] == labels[rows]).mean()) if rows.any() else None
