"""Put a cloud worker together and run it."""

from common.config.settings import CloudSettings
from common.service.channels import open_channel
from common.service.lifecycle import Stopping
from common.service.telemetry.telemetry import Telemetry
from common.service.tier import announce, open_pipeline, presence, work
from common.service.worker import Identity
from common.transport.mqtt import MqttTransport
from common.types import Tier
from common.wire.topics import Topics, checked


def run(settings: CloudSettings, stopping: Stopping) -> None:
    """Serve until asked to stop, then finish what was accepted.

    Raises:
        ConfigError: A setting is wrong, or the broker refuses this node.
        ArtifactError: The bundle is not intact.
        CrashError: A thread died.
    """
    node, topics = checked("node.id", settings.node.id), Topics(settings.mqtt.site)
    bundle, pipeline = open_pipeline(settings, Tier.CLOUD)
    identity = Identity(tier=Tier.CLOUD, node=node, topics=topics, manifest=bundle.manifest)
    telemetry = Telemetry(settings.metrics, Tier.CLOUD, node, bundle.manifest)
    channel = open_channel(settings, Tier.CLOUD)
    status = presence(Tier.CLOUD, node, topics, bundle.manifest, telemetry.counters, tier_key=channel.tier_key)
    transport = MqttTransport(settings.mqtt, client_id=node, presence=status, on_fatal=stopping)
    telemetry.watch_connection(transport)
    telemetry.watch("channel", counters=channel.counters)
    spoken = channel.over(transport)
    runner = work(settings, identity, pipeline, spoken, stopping, telemetry=telemetry, channel=channel)
    with transport, runner, telemetry:  # the runner drains its inbox, then the transport says goodbye
        runner.tell_saturation(lambda: announce(transport, status))
        stopping.wait()
    stopping.raise_error()
