"""The cost model ``measured``: milliseconds from the log, in units of one layer on the device."""

from collections import defaultdict
from collections.abc import Iterable
from statistics import median

from common.errors import ConfigError
from common.routing.cost import CostModel
from common.store.queries import RoutedRequest
from common.types import Reason, Tier

_SETTLED = frozenset({Reason.CONFIDENT, Reason.FINAL})


def measure_cost(requests: Iterable[RoutedRequest]) -> CostModel:
    """Take the median milliseconds per layer of each tier and per message of each link.

    A link that no request took alone is the sum of the two it replaces.

    Raises:
        ConfigError: No logged request ran layers on the device, or none was handed on.
    """
    layers: dict[Tier, list[float]] = defaultdict(list)
    links: dict[tuple[Tier, ...], list[float]] = defaultdict(list)
    for request in requests:
        if request.reason not in _SETTLED:
            continue
        for hop in request.hops:
            if hop.end_layer > hop.start_layer:
                layers[hop.tier].append(hop.compute_ms / (hop.end_layer - hop.start_layer))
        links[tuple(hop.tier for hop in request.hops if hop.tier is not Tier.DEVICE)].append(request.network_ms)
    if not layers[Tier.DEVICE] or not any(links):
        raise ConfigError(
            "--cost measured: the log holds no request that the device ran and handed on; run the tiers first"
        )
    unit = median(layers[Tier.DEVICE])
    local = median(links[()]) if links[()] else 0.0
    device_edge = _link(links[(Tier.EDGE,)], local, unit)
    both = _link(links[(Tier.EDGE, Tier.CLOUD)], local, unit) or 2 * device_edge
    return CostModel(
        name="measured",
        edge_layer=_per_layer(layers, Tier.EDGE, unit),
        cloud_layer=_per_layer(layers, Tier.CLOUD, unit),
        device_edge=device_edge,
        edge_cloud=max(0.0, both - device_edge),
        device_cloud=_link(links[(Tier.CLOUD,)], local, unit) or both,
    )


def _per_layer(layers: dict[Tier, list[float]], tier: Tier, unit: float) -> float:
    return median(layers[tier]) / unit if layers[tier] else 1.0


def _link(times_ms: list[float], local_ms: float, unit: float) -> float:
    return max(0.0, median(times_ms) - local_ms) / unit if times_ms else 0.0
