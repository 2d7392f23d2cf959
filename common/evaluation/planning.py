"""Plans: every split, entry tier, codec, thinness and threshold under one profile, and which no other beats."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations, pairwise, product

import msgspec
import numpy as np

from common.engine.thinness import Thinness
from common.errors import ConfigError
from common.evaluation import families
from common.evaluation.families import NEVER
from common.evaluation.profile import Profile
from common.evaluation.simulation import Numbers, message_bytes
from common.evaluation.thin_plans import Sending, Sendings
from common.evaluation.trace import Trace
from common.routing.cost import CostModel
from common.types import TIERS, Depths, Tier

_THRESHOLDS = (NEVER, *np.round(np.arange(0.99, 0.495, -0.01), 3).tolist())
_LATENCY_QUANTILE = 0.95
NEAR_LOSSLESS = ("float32", "float16", "int8")  # what they lose is not modelled
_USUAL = "int8"
_NO_LINKS: Mapping[int, list[Sending]] = {}


class PlanPoint(msgspec.Struct, frozen=True, kw_only=True):
    """One way to run the tiers, and what it gives on the kept-back split."""

    depths: Depths
    entry: Tier  # where every input starts
    device_sends: Thinness
    edge_sends: Thinness
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
    ms_per_byte: Numbers  # of the links passed, [E, 2]; 0 beyond the last
    messages: Numbers  # [E, 2], 1 where there is one
    tiers: Numbers  # position of the answering tier
    costs: Numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class _Route:
    """Where a threshold lets every sample answer."""

    threshold: float | None
    exits: np.ndarray  # [N], positions in the trace's exits
    accuracy: float
    drop_points: float


def plan(
    trace: Trace,
    profile: Profile,
    *,
    codecs: tuple[str, ...] = NEAR_LOSSLESS,
    depths: Depths | None = None,
    thin: Sendings = _NO_LINKS,
) -> list[PlanPoint]:
    """Score every combination.

    What a codec loses by itself is not modelled. What is lost over a thin link is taken off whole, though not all
    travels: those that do are the unsure ones, and they bear nearly all of it.

    Args:
        trace: The kept-back split.
        profile: Tiers and links.
        codecs: Of hidden states that leave whole.
        depths: Where the bundle's thin links are.
        thin: What may be sent over them; for inputs that start on the device.

    Raises:
        ConfigError: The trace has fewer than three exits, so nothing can be split.
    """
    if len(trace.exits) < 3:
        raise ConfigError(f"a plan needs exits after three layers at least; this bundle has {list(trace.exits)}")
    routes = _routes(trace)
    points: list[PlanPoint] = []
    for codec in codecs:
        whole = _whole(trace, codec)
        for way in _ways(trace, profile, whole):
            points += [_point(way, route, (whole, whole)) for route in routes]
    if depths is not None:
        for pair in _pairs(trace, depths, thin):
            way = _way(trace.exits, depths, Tier.DEVICE, profile, _cost(profile, pair))
            points += [_point(way, route, pair) for route in routes]
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


def _routes(trace: Trace) -> list[_Route]:
    readiness = families.confidence_family().readiness(trace)  # [E - 1, N]
    is_right = trace.predictions() == trace.labels  # [E, N]
    found = []
    for threshold in _THRESHOLDS:
        answers = readiness >= threshold
        exits = np.where(answers.any(axis=0), answers.argmax(axis=0), len(readiness))
        accuracy = float(is_right[exits, np.arange(len(trace))].mean())
        drop = 100 * (float(is_right[-1].mean()) - accuracy)
        asked = None if np.isinf(threshold) else threshold
        found.append(_Route(threshold=asked, exits=exits, accuracy=accuracy, drop_points=drop))
    return found


def _whole(trace: Trace, codec: str) -> Sending:
    sizes = message_bytes(trace.tokens, trace.features.shape[1], codec, hops=1)
    return Sending(thinness=Thinness(codec=codec), sizes=sizes)


def _pairs(trace: Trace, depths: Depths, thin: Sendings) -> Iterator[tuple[Sending, Sending]]:
    """Give what device and edge may send, where at least one of them has a thin link."""
    whole = _whole(trace, _USUAL)
    device, edge = ([whole, *thin.get(point, [])] for point in (depths.device, depths.edge))
    return (pair for pair in product(device, edge) if any(sending is not whole for sending in pair))


def _cost(profile: Profile, pair: tuple[Sending, Sending]) -> CostModel:
    return profile.cost_model(*(float(sending.sizes.mean()) for sending in pair))


def _ways(trace: Trace, profile: Profile, whole: Sending) -> Iterator[_Way]:
    cost = _cost(profile, (whole, whole))
    for device, edge in combinations(trace.exits[:-1], 2):
        depths = Depths(device=device, edge=edge, cloud=trace.exits[-1])
        for entry in TIERS:
            yield _way(trace.exits, depths, entry, profile, cost)


def _way(exits: tuple[int, ...], depths: Depths, entry: Tier, profile: Profile, cost: CostModel) -> _Way:
    first = TIERS.index(entry)
    rows, per_byte, messages = [], [], []
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
        rows.append((layers_ms, sum(link.latency_ms for link in links), last, price))
        per_byte.append([link.ms_per_byte for link in links] + [0.0] * (2 - len(links)))
        messages.append([1.0] * len(links) + [0.0] * (2 - len(links)))
    columns = np.array(rows, np.float64).T
    return _Way(
        depths=depths,
        entry=entry,
        layers_ms=columns[0],
        links_ms=columns[1],
        ms_per_byte=np.array(per_byte),
        messages=np.array(messages),
        tiers=columns[2],
        costs=columns[3],
    )


def _point(way: _Way, route: _Route, sent: tuple[Sending, Sending]) -> PlanPoint:
    exits = route.exits
    sizes = np.stack([sending.sizes for sending in sent], axis=1)  # [N, 2]
    messages = way.messages[exits]  # [N, 2]
    times = (way.layers_ms + way.links_ms)[exits] + (way.ms_per_byte[exits] * sizes).sum(axis=1)  # [N]
    at_quantile = int(_LATENCY_QUANTILE * (len(times) - 1))
    tiers = way.tiers[exits]
    travels = messages.mean(axis=0).tolist()  # share, by link
    lost = sum(min(sending.lost, share) for sending, share in zip(sent, travels, strict=True))
    return PlanPoint(
        depths=way.depths,
        entry=way.entry,
        device_sends=sent[0].thinness,
        edge_sends=sent[1].thinness,
        threshold=route.threshold,
        accuracy=route.accuracy - lost,
        drop_points=route.drop_points + 100 * lost,
        latency_ms=float(times.mean()),
        latency_ms_p95=float(np.partition(times, at_quantile)[at_quantile]),
        payload_bytes_per_request=float((messages * sizes).sum(axis=1).mean()),
        cost=float(way.costs[exits].mean()),
        shares={tier.value: float((tiers == place).mean()) for place, tier in enumerate(TIERS)},
    )
