"""How edge and cloud are put together: bundle, pipeline, worker and the thread that runs it."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from common.channel.contract import Channel
from common.config.settings import CloudSettings, EdgeSettings
from common.engine.choice import choose_policy
from common.engine.escalation import Escalation
from common.engine.pipeline import Pipeline
from common.engine.thinness import Always, Thinness
from common.engine.variants import check_family
from common.errors import TransportError
from common.model.bundle import Bundle, open_bundle
from common.model.manifest import Manifest
from common.service.backlog import FairByDevice
from common.service.channels import open_channel
from common.service.lifecycle import Stopping
from common.service.runner import Runner
from common.service.telemetry.telemetry import Telemetry
from common.service.trust import bundle_gate
from common.service.worker import Identity, TierWorker
from common.store.engine import sqlite_file
from common.store.quarantine import Quarantine
from common.transport.contract import Presence, Transport
from common.transport.mqtt import MqttTransport
from common.types import NodeStatus, Tier
from common.wire.documents import encode_document
from common.wire.topics import Topics, checked

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class TierNode:
    """An edge's or a cloud worker's parts, connected but not started: enter transport, runner, telemetry."""

    transport: MqttTransport
    channel: Channel
    spoken: Transport  # the transport as the channel speaks over it
    runner: Runner
    telemetry: Telemetry
    status: Presence
    quarantine: Quarantine  # enter it first

    def tell_saturation(self) -> None:
        """Publish the status anew whenever too much begins to wait, and when it is over."""
        self.runner.tell_saturation(self._announce)

    def _announce(self) -> None:
        try:
            self.transport.publish(self.status.topic, self.status.online(), is_retained=True)
        except TransportError as exc:
            _LOGGER.debug("the status is not published: %s", exc)


def open_tier(settings: EdgeSettings | CloudSettings, tier: Tier, stopping: Stopping) -> TierNode:
    """Load a tier's layers and subscribe to its requests.

    Raises:
        ConfigError: A setting is wrong, or the bundle or the policy does not exist.
        ArtifactError: The bundle is not intact.
    """
    node, topics = checked("node.id", settings.node.id), Topics(settings.mqtt.site)
    bundle, pipeline = open_pipeline(settings, tier)
    identity = Identity(tier=tier, node=node, topics=topics, manifest=bundle.manifest)
    telemetry = Telemetry(settings.metrics, tier, node, bundle.manifest)
    channel = open_channel(settings, tier)
    status = presence(tier, node, topics, bundle.manifest, telemetry.counters, tier_key=channel.tier_key)
    transport = MqttTransport(settings.mqtt, client_id=node, presence=status, on_fatal=stopping)
    telemetry.watch_connection(transport)
    telemetry.watch("channel", counters=channel.counters)
    spoken = channel.over(transport)
    quarantine = Quarantine(_quarantine_path(settings), most=settings.worker.max_quarantined)
    telemetry.watch("quarantine", counters=lambda: dict(quarantine.counters))
    others = open_variants(settings, tier, bundle)
    runner = work(
        settings,
        identity,
        pipeline,
        spoken,
        stopping,
        telemetry=telemetry,
        channel=channel,
        variants=others,
        quarantine=quarantine,
    )
    return TierNode(
        transport=transport,
        channel=channel,
        spoken=spoken,
        runner=runner,
        telemetry=telemetry,
        status=status,
        quarantine=quarantine,
    )


def _quarantine_path(settings: EdgeSettings | CloudSettings) -> Path | None:
    if settings.worker.quarantine_file is not None:
        return Path(settings.worker.quarantine_file)
    if isinstance(settings, CloudSettings) or not settings.log.is_recorder:
        return None
    log = sqlite_file(settings.log.url)
    return None if log is None else Path(f"{log}.quarantine")


def presence(
    tier: Tier,
    node: str,
    topics: Topics,
    manifest: Manifest,
    counters: Callable[[], dict[str, int]] = dict,
    *,
    tier_key: str = "",
) -> Presence:
    """Give the retained status of a node, and its last will."""
    online = NodeStatus(state="online", tier=tier, node=node, model_revision=manifest.revision, tier_key=tier_key)
    return Presence(
        topic=topics.status(tier, node),
        online=lambda: encode_document(msgspec.structs.replace(online, counters=counters())),
        stopped=lambda: encode_document(msgspec.structs.replace(online, state="stopped", counters=counters())),
        gone=encode_document(online.gone()),
    )


def open_pipeline(settings: EdgeSettings | CloudSettings, tier: Tier) -> tuple[Bundle, Pipeline]:
    """Load the segments a tier needs.

    Raises:
        ConfigError: The bundle or the policy does not exist.
        ArtifactError: The bundle is not intact.
    """
    bundle = open_bundle(settings.model.bundle, bundle_gate(settings.model))
    policy = choose_policy(bundle, settings.routing.policy)
    pipeline = Pipeline(bundle, policy, depth=bundle.manifest.depths.of(tier), threads=settings.model.threads)
    pipeline.warm_up()
    _LOGGER.info("%s serves %s, revision %s, layers 0-%d", tier, bundle.manifest.name, bundle.revision, pipeline.depth)
    return bundle, pipeline


def _open_escalation(settings: EdgeSettings, identity: Identity, pipeline: Pipeline) -> Escalation:
    thinness = Thinness(codec=settings.worker.codec, budget=settings.link.budget, tokens=settings.link.tokens)
    chooser = Always(thinness, pipeline.links)
    return Escalation(identity.manifest, settings.worker.codec, links=pipeline.links, chooser=chooser)


def open_variants(settings: EdgeSettings | CloudSettings, tier: Tier, own: Bundle) -> tuple[Pipeline, ...]:
    """Load the other bundles that a tier may run, each with the policy of its own routing table.

    Raises:
        ConfigError: One is of other weights or another cut than the tier's own, or does not exist.
        ArtifactError: One is not intact.
    """
    pipelines = []
    for location in settings.worker.variants:
        bundle = open_bundle(location, bundle_gate(settings.model))
        check_family(own.manifest, bundle.manifest, location)
        policy = choose_policy(bundle, settings.routing.policy)
        depth = bundle.manifest.depths.of(tier)
        pipelines.append(Pipeline(bundle, policy, depth=depth, threads=settings.model.threads))
        _LOGGER.info("%s may also run %s, revision %s", tier, bundle.manifest.precision, bundle.revision)
    for pipeline in pipelines:
        pipeline.warm_up()
    return tuple(pipelines)


def work(
    settings: EdgeSettings | CloudSettings,
    identity: Identity,
    pipeline: Pipeline,
    transport: Transport,
    stopping: Stopping,
    *,
    telemetry: Telemetry,
    channel: Channel,
    variants: Sequence[Pipeline] = (),
    quarantine: Quarantine | None = None,
) -> Runner:
    """Subscribe to a tier's requests and give the runner that answers them."""
    escalation = None if isinstance(settings, CloudSettings) else _open_escalation(settings, identity, pipeline)
    worker = TierWorker(
        identity,
        pipeline,
        transport,
        escalation=escalation,
        max_remembered=settings.worker.max_remembered,
        variants=variants,
        quarantine=quarantine,
        meter=telemetry.meter,
    )
    inbox = channel.inbox(settings.mqtt.max_inbox)
    transport.subscribe(identity.topics.request(identity.tier), inbox, group=str(identity.tier))
    backlog = FairByDevice(settings.worker.max_waiting)
    runner = Runner(
        "inference",
        inbox,
        worker,
        stopping,
        max_batch=settings.worker.max_batch,
        backlog=backlog,
        quickest_ms=worker.quickest_ms,
    )
    runner.observe(telemetry)
    return runner
