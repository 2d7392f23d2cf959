"""What tiers and links take: measured by ``dimee bench profile``, or given by hand as TOML."""

from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np

from common.config.measured import Measured
from common.errors import ConfigError
from common.evaluation.simulation import Numbers, Routes, exit_tiers, route_bytes
from common.evaluation.trace import Trace
from common.routing.cost import CostModel
from common.types import TIERS, Depths, NonNegative, Tier


class TierProfile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One tier."""

    layer_ms: NonNegative  # compute of one layer, at the usual length
    layer_price: NonNegative = 0.0  # money or energy of one layer, in any unit
    settings: Measured | None = None  # that this time was measured with; tiers read them by model.profile_file


class LinkProfile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One link, there and back."""

    latency_ms: NonNegative  # of an empty message and its answer
    mbit_s: Annotated[float, msgspec.Meta(gt=0)] = 1000.0  # megabits per second
    megabyte_price: NonNegative = 0.0  # in the unit of the layers' prices

    def message_ms(self, num_bytes: Numbers) -> Numbers:
        """Time [N] of messages with so many bytes."""
        return self.latency_ms + num_bytes * self.ms_per_byte

    @property
    def ms_per_byte(self) -> float:
        """Time that one more byte takes."""
        return 8e-3 / self.mbit_s


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Three tiers and the links between them."""

    name: str = "profile"
    device: TierProfile
    edge: TierProfile
    cloud: TierProfile
    device_edge: LinkProfile
    edge_cloud: LinkProfile
    device_cloud: LinkProfile

    def tier(self, tier: Tier) -> TierProfile:
        """Give one tier's numbers."""
        return {Tier.DEVICE: self.device, Tier.EDGE: self.edge, Tier.CLOUD: self.cloud}[tier]

    def link(self, source: int, target: int) -> LinkProfile:
        """Give the link between two positions in TIERS."""
        return {(0, 1): self.device_edge, (1, 2): self.edge_cloud, (0, 2): self.device_cloud}[source, target]

    @property
    def has_prices(self) -> bool:
        """Say whether anything costs money or energy here."""
        links = (self.device_edge, self.edge_cloud, self.device_cloud)
        return any(self.tier(tier).layer_price for tier in TIERS) or any(link.megabyte_price for link in links)

    def cost_model(self, message_bytes: float, onward_bytes: float | None = None) -> CostModel:
        """Price layers and messages of a mean size: by the prices where there are any, else by milliseconds.

        Args:
            message_bytes: Of what a device sends.
            onward_bytes: Of what the edge sends; the same by default.
        """
        onward = message_bytes if onward_bytes is None else onward_bytes
        links = (self.device_edge, self.edge_cloud, self.device_cloud)
        sizes = np.array([message_bytes, onward, message_bytes])
        if self.has_prices:
            device, edge, cloud = (self.tier(tier).layer_price for tier in TIERS)
            messages = [link.megabyte_price * size / 1e6 for link, size in zip(links, sizes, strict=True)]
        else:
            device, edge, cloud = (self.tier(tier).layer_ms for tier in TIERS)
            messages = [link.message_ms(size) for link, size in zip(links, sizes, strict=True)]
        device_edge, edge_cloud, device_cloud = map(float, messages)
        return CostModel(
            name=self.name,
            device_layer=device,
            edge_layer=edge,
            cloud_layer=cloud,
            device_edge=device_edge,
            edge_cloud=edge_cloud,
            device_cloud=device_cloud,
        )

    def latency_ms(self, routes: Routes, trace: Trace, depths: Depths, codec: str = "int8") -> Numbers:
        """Time [N] of each sample's route without queues; the embedding is not counted."""
        reached = exit_tiers(routes, trace, depths)
        layers = np.array(trace.exits)[routes.exits]
        messages = (routes.entries > 0).astype(int) + reached - routes.entries
        sizes = route_bytes(routes, trace, depths, codec) / np.maximum(messages, 1)
        total = np.zeros(len(trace))
        done = np.zeros(len(trace))
        for place, tier in enumerate(TIERS):
            here = (routes.entries <= place) & (reached >= place)
            end = np.minimum(layers, depths.of(tier))
            total += np.where(here, np.maximum(end - done, 0) * self.tier(tier).layer_ms, 0)
            done = np.where(here, np.maximum(done, end), done)
            for source in range(place):
                is_entry = (routes.entries == place) & (source == 0)
                is_escalation = (routes.entries < place) & (reached >= place) & (source == place - 1)
                total += np.where(is_entry | is_escalation, self.link(source, place).message_ms(sizes), 0)
        return total


def read_profile(path: Path) -> Profile:
    """Read a profile from TOML.

    Raises:
        ConfigError: It cannot be read, or a key is missing, unknown or out of range.
    """
    try:
        return msgspec.toml.decode(path.read_bytes(), type=Profile)
    except OSError as exc:
        raise ConfigError(f"profile {path} cannot be read: {exc.strerror}") from exc
    except msgspec.DecodeError as exc:
        raise ConfigError(f"profile {path}: {exc}") from exc
