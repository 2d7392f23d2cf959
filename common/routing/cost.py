"""What a route costs, in layers of the device.

Two named models: ``paper`` (one unit per layer everywhere; offloads 3, 5 and 2: the ratios of SplitEE's published code,
as in the DIMEE evaluation) and ``measured`` (made from the log by ``dimee evaluate --cost measured``).
"""

from itertools import pairwise

import msgspec

from common.types import TIERS, Depths, Hop, NonNegative, Tier


class CostModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Constants of a cost; a percentage without them means nothing."""

    name: str = "paper"
    device_layer: NonNegative = 1.0
    edge_layer: NonNegative = 1.0
    cloud_layer: NonNegative = 1.0
    device_edge: NonNegative = 3.0  # one message from device to edge
    device_cloud: NonNegative = 5.0
    edge_cloud: NonNegative = 2.0

    def layers(self, tier: Tier, count: int) -> float:
        """Price ``count`` layers on a tier."""
        match tier:
            case Tier.DEVICE:
                return count * self.device_layer
            case Tier.EDGE:
                return count * self.edge_layer
            case Tier.CLOUD:
                return count * self.cloud_layer

    def link(self, source: Tier, target: Tier) -> float:
        """Price one message from a nearer tier to a farther one."""
        match source, target:
            case Tier.DEVICE, Tier.EDGE:
                return self.device_edge
            case Tier.DEVICE, Tier.CLOUD:
                return self.device_cloud
            case Tier.EDGE, Tier.CLOUD:
                return self.edge_cloud
            case _:
                raise ValueError(f"no message goes from {source} to {target}")

    def cloud_only(self, depths: Depths) -> float:
        """Price the reference: every input to the cloud, all layers there."""
        return self.layers(Tier.CLOUD, depths.cloud) + self.device_cloud

    def of_hops(self, hops: tuple[Hop, ...]) -> float:
        """Price a request from the hops it took; the embedding on the device is free in both models."""
        tiers = [Tier.DEVICE, *(hop.tier for hop in hops if hop.tier is not Tier.DEVICE)]
        links = sum(self.link(source, target) for source, target in pairwise(tiers))
        return links + sum(self.layers(hop.tier, hop.end - hop.start) for hop in hops)

    def of_route(self, entry: Tier, exit_layer: int, depths: Depths) -> float:
        """Price a route that enters at ``entry``, escalates tier by tier and is answered after ``exit_layer``."""
        exit_tier = max(depths.tier_of(exit_layer), entry, key=TIERS.index)
        route = TIERS[TIERS.index(entry) : TIERS.index(exit_tier) + 1]
        total = self.link(Tier.DEVICE, entry) if entry is not Tier.DEVICE else 0.0
        total += sum(self.link(source, target) for source, target in pairwise(route))
        start = 0
        for tier in route:
            end = min(exit_layer, depths.of(tier))
            total += self.layers(tier, max(0, end - start))
            start = max(start, end)
        return total
