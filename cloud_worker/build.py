"""Put a cloud worker together and run it."""

from common.config.settings import CloudSettings
from common.service.lifecycle import Stopping, keep_loaded
from common.service.tier import open_tier
from common.types import Tier


def run(settings: CloudSettings, stopping: Stopping) -> None:
    """Serve until asked to stop, then finish what was accepted.

    Raises:
        ConfigError: A setting is wrong, or the broker refuses this node.
        ArtifactError: The bundle is not intact.
        CrashError: A thread died.
    """
    node = open_tier(settings, Tier.CLOUD, stopping)
    with (
        node.core,
        node.quarantine,
        node.tracer,
        node.transport,
        node.runner,
        node.updates,
        node.telemetry,
        node.showing,
    ):  # the runner drains its inbox, then the transport says goodbye
        node.tell_saturation()
        keep_loaded()
        stopping.wait()
    stopping.raise_error()
