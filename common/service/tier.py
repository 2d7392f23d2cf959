"""How edge and cloud are put together: bundle, pipeline, worker and the thread that runs it."""

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from common.channel.contract import Channel
from common.config.settings import CloudSettings, EdgeSettings
from common.engine.pipeline import Pipeline
from common.model.manifest import MANIFEST_FILE
from common.model.shelf import Shelf
from common.service.backlog import FairByDevice
from common.service.channels import open_channel
from common.service.computing import open_escalation
from common.service.core.client import open_core
from common.service.core.node import CoreChannel, CoreWorker, peek_stored
from common.service.home_assistant.showing import open_showing
from common.service.lifecycle import Stopping
from common.service.loading import load_served, open_pipeline, open_variants
from common.service.presence import Standing, announce, presence
from common.service.runner import Runner
from common.service.served import Identity
from common.service.signatures import open_signer
from common.service.steering import OperatingPoints
from common.service.telemetry.telemetry import Telemetry, open_tracer
from common.service.telemetry.tracing import NoTracer, Tracer
from common.service.trust import bundle_gate, trial_gate
from common.service.updates.fetching import Fetcher
from common.service.updates.serving import ServedReleases
from common.service.updates.updater import Updater
from common.service.worker import TierWorker
from common.store.engine import sqlite_file
from common.store.quarantine import Quarantine
from common.transport.contract import Presence, Transport
from common.transport.mqtt import MqttTransport
from common.types import Tier
from common.wire.topics import Topics, checked

_WAVE = 4  # requests that wait together are taken in so many at once
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class TierNode:
    """An edge's or a cloud worker's parts, connected but not started: enter transport, runner, updates, telemetry."""

    transport: MqttTransport
    channel: Channel
    spoken: Transport  # the transport as the channel speaks over it
    runner: Runner
    updates: AbstractContextManager[object]
    telemetry: Telemetry
    status: Presence
    quarantine: Quarantine  # enter it first
    showing: AbstractContextManager[object]  # in Home Assistant; enter it last
    tracer: Tracer = field(default_factory=NoTracer)  # enter it before the runner
    core: AbstractContextManager[object] = field(default_factory=nullcontext)  # before even that

    def tell_saturation(self) -> None:
        """Publish the status anew whenever too much begins to wait, and when it is over."""
        self.runner.tell_saturation(partial(announce, self.transport, self.status))


def open_tier(settings: EdgeSettings | CloudSettings, tier: Tier, stopping: Stopping) -> TierNode:
    """Load a tier's layers and subscribe to its requests.

    Raises:
        ConfigError: A setting is wrong, or the bundle or the policy does not exist.
        ArtifactError: The bundle is not intact.
    """
    if settings.channel.has_core:
        return _open_core_tier(settings, tier, stopping)
    node, topics = checked("node.id", settings.node.id), Topics(settings.mqtt.site)
    points = OperatingPoints()
    bundle, pipeline = open_pipeline(settings, tier, points)
    identity = Identity(tier=tier, node=node, topics=topics, manifest=bundle.manifest)
    telemetry = Telemetry(settings.metrics, tier, node, bundle.manifest)
    channel = open_channel(settings, tier)
    standing = Standing(revision=bundle.revision, provider=pipeline.provider)
    status = presence(tier, node, topics, standing, telemetry.counters, tier_key=channel.tier_key)
    transport = MqttTransport(settings.mqtt, client_id=node, presence=status, on_fatal=stopping)
    transport.subscribe(topics.operating_point, points)
    telemetry.watch_connection(transport)
    telemetry.watch("operating_points", counters=lambda: {"refused": points.refused})
    telemetry.watch("channel", counters=channel.counters)
    showing = open_showing(settings, tier, transport, standing=standing, telemetry=telemetry, points=points)
    spoken = channel.over(transport)
    quarantine = Quarantine(_quarantine_path(settings), most=settings.worker.max_quarantined)
    telemetry.watch("quarantine", counters=lambda: dict(quarantine.counters))
    tracer = open_tracer(settings.tracing, tier, node)
    telemetry.watch("tracing", counters=tracer.counters)
    others = open_variants(settings, tier, bundle, points)
    worker, runner = work(
        settings,
        identity,
        pipeline,
        spoken,
        stopping,
        telemetry=telemetry,
        channel=channel,
        variants=others,
        quarantine=quarantine,
        tracer=tracer,
    )
    tell = partial(announce, transport, status)
    return TierNode(
        transport=transport,
        channel=channel,
        spoken=spoken,
        runner=runner,
        updates=_updates(settings, worker, transport, identity, standing=standing, tell=tell, points=points),
        telemetry=telemetry,
        status=status,
        quarantine=quarantine,
        showing=showing,
        tracer=tracer,
    )


def _open_core_tier(settings: EdgeSettings | CloudSettings, tier: Tier, stopping: Stopping) -> TierNode:
    node, topics = checked("node.id", settings.node.id), Topics(settings.mqtt.site)
    core = open_core(settings, tier)
    channel = CoreChannel(core, topics)
    telemetry = Telemetry(settings.metrics, tier, node, core.manifest)
    standing = Standing(revision=core.manifest.revision)
    status = presence(tier, node, topics, standing, telemetry.counters, tier_key=channel.tier_key)
    transport = MqttTransport(settings.mqtt, client_id=node, presence=status, on_fatal=stopping)
    telemetry.watch_connection(transport)
    telemetry.watch("channel", counters=channel.counters)
    inbox = channel.inbox(settings.mqtt.max_inbox)
    spoken = channel.over(transport)
    spoken.subscribe(topics.request(tier), inbox, group=str(tier))
    backlog = FairByDevice(settings.worker.max_waiting, peek_stored)
    worker = CoreWorker(core, transport)
    runner = Runner("inference", inbox, worker, stopping, max_batch=settings.worker.max_batch or 1, backlog=backlog)
    runner.observe(telemetry)
    return TierNode(
        transport=transport,
        channel=channel,
        spoken=spoken,
        runner=runner,
        updates=nullcontext(),
        telemetry=telemetry,
        status=status,
        quarantine=Quarantine(None, most=settings.worker.max_quarantined),
        core=core,
        showing=open_showing(settings, tier, transport, standing=standing, telemetry=telemetry),
    )


def _quarantine_path(settings: EdgeSettings | CloudSettings) -> Path | None:
    if settings.worker.quarantine_file is not None:
        return Path(settings.worker.quarantine_file)
    if isinstance(settings, CloudSettings) or not settings.log.is_recorder:
        return None
    log = sqlite_file(settings.log.url)
    return None if log is None else Path(f"{log}.quarantine")


def _updates(
    settings: EdgeSettings | CloudSettings,
    worker: TierWorker,
    transport: Transport,
    identity: Identity,
    *,
    standing: Standing,
    tell: Callable[[], None],
    points: OperatingPoints,
) -> AbstractContextManager[object]:
    """Serve published bundles, too, where there is a folder for them."""
    if settings.updates.folder is None:
        return nullcontext()
    shelf = Shelf(Path(settings.updates.folder))
    own_gate = bundle_gate(settings.model)
    releases = ServedReleases(
        worker=worker,
        own=identity.manifest.revision,
        shelf=shelf,
        fetcher=Fetcher(transport, identity.topics, shelf),
        gate=trial_gate(settings.model, shelf.folder / "history"),
        load=partial(load_served, settings=settings, tier=identity.tier, points=points),
        settle=lambda bundle: own_gate.check(bundle.directory, (bundle.directory / MANIFEST_FILE).read_bytes()),
        standing=standing,
        announce=tell,
    )
    releases.load_known()
    return Updater(transport, identity.topics, releases)


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
    tracer: Tracer | None = None,
) -> tuple[TierWorker, Runner]:
    """Subscribe to a tier's requests; give the worker that answers them, and its runner."""
    escalation = open_escalation(settings, identity.manifest, pipeline)
    worker = TierWorker(
        identity,
        pipeline,
        transport,
        escalation=escalation,
        max_remembered=settings.worker.max_remembered,
        variants=variants,
        quarantine=quarantine,
        meter=telemetry.meter,
        signer=open_signer(settings),
        tracer=tracer,
    )
    inbox = channel.inbox(settings.mqtt.max_inbox)
    transport.subscribe(identity.topics.request(identity.tier), inbox, group=str(identity.tier))
    backlog = FairByDevice(settings.worker.max_waiting)
    backlog.on_excess = worker.turn_away
    runner = Runner(
        "inference",
        inbox,
        worker,
        stopping,
        max_batch=max(pipeline.max_batch, _WAVE),
        backlog=backlog,
        quickest_ms=worker.quickest_ms,
    )
    runner.observe(telemetry)
    return worker, runner
