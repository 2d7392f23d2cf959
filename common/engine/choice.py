"""The policy a tier runs: the bundle's default, or one chosen by name."""

import msgspec

from common.errors import ArtifactError, ConfigError
from common.model.bundle import Bundle
from common.model.manifest import ROUTING_FILE
from common.routing.entry import Dimee
from common.routing.policies import Policy, RoutingTable

DEFAULT = "default"


def routing_table(bundle: Bundle) -> RoutingTable:
    """Read a bundle's policies.

    Raises:
        ArtifactError: The file is missing or no routing table.
    """
    try:
        return msgspec.json.decode(bundle.read(ROUTING_FILE), type=RoutingTable)
    except msgspec.DecodeError as exc:
        raise ArtifactError(f"{bundle.directory / ROUTING_FILE} is no routing table: {exc}") from exc


def find_clusterer(bundle: Bundle) -> Policy | None:
    """Give the policy whose centroids name an input's pool, whichever policy routes."""
    return next((policy for policy in routing_table(bundle).policies.values() if isinstance(policy, Dimee)), None)


def choose_policy(bundle: Bundle, name: str = DEFAULT) -> Policy:
    """Give a bundle's policy by name.

    Raises:
        ConfigError: The bundle has no policy of this name.
    """
    table = routing_table(bundle)
    wanted = table.default if name == DEFAULT else name
    if wanted not in table.policies:
        raise ConfigError(f"routing.policy: {name!r} is not one of {sorted(table.policies)}, nor {DEFAULT!r}")
    return table.policies[wanted]
