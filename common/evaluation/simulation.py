"""Routes that a policy gives the samples of a trace, by the very steps of the running tiers.

An input enters a tier; the tier runs its layers and asks the policy at every exit; what is unsure at the tier's end
escalates to the next tier; the last layer always answers.
"""

from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from common.evaluation.trace import Trace
from common.routing.cost import CostModel
from common.routing.evidence import Indices
from common.routing.policies import Policy
from common.types import TIERS, Depths, Hop, Tier
from common.wire.activations import codec
from common.wire.codec import encode
from common.wire.messages import HiddenStates

Numbers = NDArray[np.float64]

_SOME_ID = "0" * 32  # as long as the ids that devices give
_SOME_NODE = "device-1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Routes:
    """The way of every sample."""

    entries: Indices  # [N], positions in TIERS
    exits: Indices  # [N], positions in the trace's exits
    predictions: Indices  # [N], classes answered


def simulate(policy: Policy, trace: Trace, depths: Depths) -> Routes:
    """Route every sample of a trace."""
    entries = policy.enter(trace.entry_evidence()).tiers
    last = len(trace.exits) - 1
    exits = np.full(len(trace), last)
    for place, evidence in enumerate(trace.exit_evidence()[:last]):
        tiers = np.maximum(entries, TIERS.index(depths.tier_of(evidence.layer)))  # [N], where this exit is run
        running = exits == last
        for tier in np.unique(tiers[running]):
            is_end = evidence.layer == depths.of(TIERS[tier])
            answered = policy.should_exit(msgspec.structs.replace(evidence, is_tier_end=is_end))
            exits[running & (tiers == tier) & answered] = place
    return routes_of(trace, entries, exits)


def routes_of(trace: Trace, entries: Indices, exits: Indices) -> Routes:
    """Read the answers given at known exits."""
    predictions = trace.predictions()[exits, np.arange(len(trace))]
    return Routes(entries=entries, exits=exits, predictions=predictions)


def exit_tiers(routes: Routes, trace: Trace, depths: Depths) -> Indices:
    """Tier that answers each sample, [N]."""
    nearest = np.array([TIERS.index(depths.tier_of(layer)) for layer in trace.exits])
    return np.maximum(nearest[routes.exits], routes.entries)  # type: ignore[no-any-return]


def cost_table(exits: tuple[int, ...], depths: Depths, cost: CostModel) -> Numbers:
    """Cost of a route by entry tier and exit, [3, E]."""
    return np.array([[cost.of_route(entry, layer, depths) for layer in exits] for entry in TIERS])


def route_costs(routes: Routes, trace: Trace, depths: Depths, cost: CostModel) -> Numbers:
    """Cost of each sample's route, [N]."""
    costs: Numbers = cost_table(trace.exits, depths, cost)[routes.entries, routes.exits]
    return costs


def route_bytes(routes: Routes, trace: Trace, depths: Depths, codec_name: str = "int8") -> Numbers:
    """Bytes of all hidden-state messages of each sample's route, [N], as the wire packs them."""
    reached = exit_tiers(routes, trace, depths)
    total = np.zeros(len(trace))
    width = trace.features.shape[1]
    for tier, hops in ((Tier.EDGE, 1), (Tier.CLOUD, 2)):
        place = TIERS.index(tier)
        enters = (routes.entries == place) & (place > 0)  # the embedding's output, no hop yet
        arrives = (routes.entries < place) & (reached >= place)
        for rows, taken in ((enters, 0), (arrives, hops)):
            total[rows] += message_bytes(trace.tokens[rows], width, codec_name, taken)
    return total


def message_bytes(tokens: Indices, width: int, codec_name: str, hops: int) -> Numbers:
    """Bytes [N] of one hidden-states message for so many tokens, as the wire packs it."""
    sizes = {int(count): _encoded_bytes(int(count), width, codec_name, hops) for count in np.unique(tokens)}
    return np.array([sizes[int(count)] for count in tokens], np.float64)


def _encoded_bytes(tokens: int, width: int, codec_name: str, hops: int) -> int:
    hidden = np.ones((tokens, width), np.float32)
    hop = Hop(tier=Tier.DEVICE, node=_SOME_NODE, start=0, end=1, queue_ms=0.1, compute_ms=1.1, confidence=0.7)
    message = HiddenStates(
        request_id=_SOME_ID,
        device_id=_SOME_NODE,
        model_revision=_SOME_ID[:16],
        split_point=1,
        budget_ms=1999.5,
        codec=codec_name,
        tensors=codec(codec_name).encode(hidden),
        hops=(hop,) * hops,
    )
    return len(encode(message))
