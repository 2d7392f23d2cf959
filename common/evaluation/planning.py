"""Plans: every split, entry tier, codec and threshold under one profile, and which of them no other beats."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, pairwise

import msgspec
import numpy as np

from common.errors import ConfigError
from common.evaluation import families
from common.evaluation.families import NEVER
from common.evaluation.profile import Profile
from common.evaluation.simulation import Numbers, message_bytes
from common.evaluation.trace import Trace
from common.routing.cost import CostModel
from common.types import TIERS, Depths, Tier

_THRESHOLDS = (NEVER, *np.round(np.arange(0.99, 0.495, -0.01), 3).tolist())
_LATENCY_QUANTILE = 0.95
NEAR_LOSSLESS = ("float32", "float16", "int8")  # int4 and thin links lose what a plan does not model


class PlanPoint(msgspec.Struct, frozen=True, kw_only=True):
    """One way to run the tiers, and what it gives on the kept-back split."""

    depths: Depths
    entry: Tier  # where every input starts
    codec: str
    threshold: float | None  # asked at every exit; None answers at the last one only
    accuracy: float
    drop_points: float
    latency_ms: float  # mean
    latency_ms_p95: float
    payload_bytes_per_request: float
    cost: float
    shares: dict[str, float]  # of answers, by tier


@dataclass(frozen=True, slots=True, kw_only=True)
class _Way:
    """Fixed quantities of a split and entry tier, by exit [E]."""

    depths: Depths
    entry: Tier
    layers_ms: Numbers
    links_ms: Numbers  # latency of the links passed
    ms_per_byte: Numbers  # summed over the links passed
    messages: Numbers
    tiers: Numbers  # position of the answering tier
    costs: Numbers


def plan(trace: Trace, profile: Profile, *, codecs: tuple[str, ...] = NEAR_LOSSLESS) -> list[PlanPoint]:
    """Score every combination; the codec's own effect on accuracy is not modelled.

    Raises:
        ConfigError: The trace has fewer than three exits, so nothing can be split.
    """
    if len(trace.exits) < 3:
        raise ConfigError(f"a plan needs exits after three layers at least; this bundle has {list(trace.exits)}")
    family = families.confidence_family()
    readiness = family.readiness(trace)  # [E - 1, N]
    is_right = trace.predictions() == trace.labels  # [E, N]
    exits = [_first_exit(readiness, threshold) for threshold in _THRESHOLDS]
    right = [float(is_right[chosen, np.arange(len(trace))].mean()) for chosen in exits]
    points: list[PlanPoint] = []
    for codec in codecs:
        sizes = message_bytes(trace.tokens, trace.features.shape[1], codec, hops=1)  # [N]
        for way in _ways(trace, profile, float(sizes.mean())):
            for threshold, chosen, accuracy in zip(_THRESHOLDS, exits, right, strict=True):
                drop = 100 * (float(is_right[-1].mean()) - accuracy)
                points.append(
                    _point(way, chosen, sizes, codec=codec, threshold=threshold, accuracy=accuracy, drop=drop)
                )
    return points


def pareto(points: list[PlanPoint]) -> list[PlanPoint]:
    """Keep the points that no other equals or beats in accuracy, mean latency, bytes and cost at once."""
    values = np.array(
        [(-p.accuracy, p.latency_ms, p.payload_bytes_per_request, p.cost) for p in points]
    )  # [P, 4], smaller is better
    values, kept = np.unique(values, axis=0, return_index=True)
    front: list[int] = []
    for row, place in zip(values, kept, strict=True):
        better = (values <= row).all(axis=1) & (values < row).any(axis=1)
        if not better.any():
            front.append(int(place))
    return sorted((points[place] for place in front), key=lambda point: point.cost)


def choose_plan(front: list[PlanPoint], *, max_drop_points: float, max_latency_ms: float | None = None) -> PlanPoint:
    """Take the cheapest within the limits.

    Raises:
        ConfigError: None is; the message names the nearest.
    """
    allowed = [point for point in front if point.drop_points <= max_drop_points]
    within = [point for point in allowed if max_latency_ms is None or point.latency_ms_p95 <= max_latency_ms]
    if within:
        return min(within, key=lambda point: (point.cost, point.latency_ms))
    quickest = min(allowed, key=lambda point: point.latency_ms_p95)
    raise ConfigError(
        f"no plan keeps the drop within {max_drop_points:g} points and p95 within {max_latency_ms:g} ms; "
        f"the quickest with that drop takes {quickest.latency_ms_p95:.1f} ms"
    )


def _first_exit(readiness: Numbers, threshold: float) -> np.ndarray:
    answers = readiness >= threshold
    return np.where(answers.any(axis=0), answers.argmax(axis=0), len(readiness))


def _ways(trace: Trace, profile: Profile, mean_bytes: float) -> Iterator[_Way]:
    cost = profile.cost_model(mean_bytes)
    for device, edge in combinations(trace.exits[:-1], 2):
        depths = Depths(device=device, edge=edge, cloud=trace.exits[-1])
        for entry in TIERS:
            yield _way(trace.exits, depths, entry, profile, cost)


def _way(exits: tuple[int, ...], depths: Depths, entry: Tier, profile: Profile, cost: CostModel) -> _Way:
    first = TIERS.index(entry)
    rows = []
    for layer in exits:
        last = max(first, TIERS.index(depths.tier_of(layer)))
        hops = [*([(0, first)] if first else []), *pairwise(range(first, last + 1))]
        links = [profile.link(source, target) for source, target in hops]
        done, layers_ms = 0, 0.0
        for place in range(first, last + 1):
            end = min(layer, depths.of(TIERS[place]))
            layers_ms += max(0, end - done) * profile.tier(TIERS[place]).layer_ms
            done = max(done, end)
        price = cost.of_route(entry, layer, depths)
        per_byte = sum(link.ms_per_byte for link in links)
        rows.append((layers_ms, sum(link.latency_ms for link in links), per_byte, len(links), last, price))
    columns = np.array(rows, np.float64).T
    return _Way(
        depths=depths,
        entry=entry,
        layers_ms=columns[0],
        links_ms=columns[1],
        ms_per_byte=columns[2],
        messages=columns[3],
        tiers=columns[4],
        costs=columns[5],
    )


def _point(
    way: _Way, exits: np.ndarray, sizes: Numbers, *, codec: str, threshold: float, accuracy: float, drop: float
) -> PlanPoint:
    times = (way.layers_ms + way.links_ms)[exits] + way.ms_per_byte[exits] * sizes  # [N]
    at_quantile = int(_LATENCY_QUANTILE * (len(times) - 1))
    tiers = way.tiers[exits]
    return PlanPoint(
        depths=way.depths,
        entry=way.entry,
        codec=codec,
        threshold=None if np.isinf(threshold) else threshold,
        accuracy=accuracy,
        drop_points=drop,
        latency_ms=float(times.mean()),
        latency_ms_p95=float(np.partition(times, at_quantile)[at_quantile]),
        payload_bytes_per_request=float((way.messages[exits] * sizes).mean()),
        cost=float(way.costs[exits].mean()),
        shares={tier.value: float((tiers == place).mean()) for place, tier in enumerate(TIERS)},
    )
