"""What the kept-back texts teach an exported bundle: temperatures, and a first table of policies."""

from itertools import product

import numpy as np
from numpy.typing import NDArray

from cloud_worker.training.batches import EncodedTexts
from cloud_worker.training.parity import Chain
from common.evaluation.simulation import route_costs, simulate
from common.evaluation.trace import Trace
from common.routing.cost import CostModel
from common.routing.entry import Dimee, Fixed
from common.routing.exits import ConfidenceCascade, Thresholds
from common.routing.fitting import calibrated, fit_dimee, fit_pools, fit_temperature
from common.routing.policies import AnyPolicy, RoutingTable
from common.types import TIERS, Depths

MAX_DROP = 0.003  # of accuracy, against the last exit on the kept-back texts
_GRID = tuple(np.round(np.concatenate([np.arange(0.5, 0.98, 0.02), np.arange(0.98, 1.0, 0.002)]), 4).tolist())


def trace_kept_back(chain: Chain, texts: EncodedTexts, epochs: NDArray[np.float32]) -> Trace:
    """Run the kept-back texts through the exported segments and fit every exit's temperature.

    One text at a time, as a device does: int8 activations are scaled by batch, so a batch answers otherwise.

    Args:
        chain: The exported segments.
        texts: N kept-back texts.
        epochs: [T, L, N], probability of the true label after each training epoch, at all exits of the backbone.
    """
    outputs = [chain.run(texts.batch([row])) for row in range(len(texts))]
    logits = np.concatenate([output.logits for output in outputs], axis=1)  # [E, N, C]
    labels = texts.labels.numpy()
    return Trace(
        exits=chain.exits,
        temperatures=tuple(fit_temperature(exit_logits, labels) for exit_logits in logits),
        logits=logits,
        pooled=_coarse(np.concatenate([output.pooled for output in outputs], axis=1), steps=64),
        features=_coarse(np.concatenate([output.embedded.mean(axis=1) for output in outputs]), steps=128),
        tokens=texts.lengths.astype(np.intp),
        labels=labels,
        probabilities_by_epoch=epochs[:, [layer - 1 for layer in chain.exits]],
    )


def _coarse(states: NDArray[np.float32], steps: int) -> NDArray[np.float32]:
    """Round to so many steps up to the largest value: the bundle's archive packs them into a third of the space."""
    step = max(float(np.abs(states).max()), 1e-12) / steps
    coarse: NDArray[np.float32] = (np.round(states / step) * step).astype(np.float32)
    return coarse


def fit_routing(trace: Trace, depths: Depths) -> RoutingTable:
    """Single tiers, the confidence cascade and DIMEE, at the least cost within :data:`MAX_DROP` on the trace.

    A table to start from: what it saves on the texts it was fitted on is no promise.
    """
    single: dict[str, AnyPolicy] = {f"{tier}-only": Fixed(tier=tier, layer=depths.of(tier)) for tier in TIERS}
    cascade = _cheapest_cascade(trace, depths)
    pools = _pools(trace, depths, cascade.thresholds)
    return RoutingTable(
        default="confidence-cascade",
        policies={
            **single,
            "confidence-cascade": cascade,
            "dimee": _dimee(trace, pools, cascade.thresholds, has_fallback=True),
            "dimee-pure": _dimee(trace, pools, cascade.thresholds, has_fallback=False),
        },
    )


def _cheapest_cascade(trace: Trace, depths: Depths) -> ConfidenceCascade:
    """Grid over the thresholds at exits m and n; the exits between them ask for nothing."""
    tier_ends = trace.restrict((depths.device, depths.edge, depths.cloud))
    allowed = float((tier_ends.predictions()[-1] == trace.labels).mean()) - MAX_DROP
    best, least = ConfidenceCascade(thresholds={depths.device: 1.0, depths.edge: 1.0}), np.inf
    for near, far in product(_GRID, repeat=2):
        policy = ConfidenceCascade(thresholds={depths.device: near, depths.edge: far})
        routes = simulate(policy, tier_ends, depths)
        cost = float(route_costs(routes, tier_ends, depths, CostModel()).mean())
        if cost < least and float((routes.predictions == trace.labels).mean()) >= allowed:
            best, least = policy, cost
    return best


def _pools(trace: Trace, depths: Depths, thresholds: Thresholds) -> NDArray[np.intp]:
    probabilities = calibrated(trace.logits, trace.temperatures)  # [E, N, C]
    near, far = (probabilities[trace.exits.index(layer)] for layer in (depths.device, depths.edge))
    return fit_pools((near, far), trace.labels, thresholds[depths.device])


def _dimee(trace: Trace, pools: NDArray[np.intp], thresholds: Thresholds, *, has_fallback: bool) -> Dimee:
    return fit_dimee(trace.features, pools, thresholds, has_fallback=has_fallback)
