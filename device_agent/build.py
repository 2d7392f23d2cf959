"""Put a device agent together."""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from common.channel.contract import Channel
from common.config.load import load
from common.config.settings import DeviceSettings
from common.engine.pipeline import Exited
from common.errors import CrashError
from common.model.bundle import Bundle
from common.routing.cost import CostModel
from common.service.channels import open_channel
from common.service.home_assistant.showing import open_showing
from common.service.lifecycle import Stopping
from common.service.presence import Standing, announce, presence
from common.service.signatures import open_verifier
from common.service.steering import OperatingPoints
from common.service.telemetry.telemetry import Telemetry, open_tracer
from common.service.telemetry.vitals import Meter
from common.transport.contract import Inbox, Transport
from common.transport.mqtt import MqttTransport
from common.types import Tier
from common.wire.topics import Topics, checked
from device_agent.agent import Agent
from device_agent.answers import AnswerMaker
from device_agent.audit import Audit, Auditor, NoAudit
from device_agent.beginning import follow_rollout, open_first
from device_agent.journal import Journal
from device_agent.layers import run_device_layers
from device_agent.link_cap import LinkCaps
from device_agent.model import load_model
from device_agent.outbox import Outbox, open_outbox
from device_agent.pending import Pending
from device_agent.recovery import Recovery
from device_agent.settler import Settler
from device_agent.signatures import AnySignature, NeededSignatures
from device_agent.trial import ShowingMeter


def open_agent(config: Path) -> Agent:
    """Start an agent from a configuration file."""
    return start_agent(load(DeviceSettings, config), Stopping())


def start_agent(
    settings: DeviceSettings, stopping: Stopping, transport: Transport | None = None, *, inputs: Inbox | None = None
) -> Agent:
    """Start an agent; it works, degraded, while the broker is away.

    Args:
        settings: This device.
        stopping: Asked when the agent cannot go on.
        transport: Where messages go instead of the configured broker; the caller closes it.
        inputs: Where texts from the MQTT input topic go; subscribed before the device says online.
    """
    topics, node = Topics(settings.mqtt.site), checked("node.id", settings.node.id)
    bundle = open_first(settings)
    points = OperatingPoints()
    model = load_model(bundle, settings, points)
    standing = Standing(revision=bundle.revision, provider=model.pipeline.provider)
    channel = open_channel(settings, Tier.DEVICE)
    inbox = channel.inbox(settings.mqtt.max_inbox)
    telemetry = Telemetry(settings.metrics, Tier.DEVICE, node, bundle.manifest)
    tracer = open_tracer(settings.tracing, Tier.DEVICE, node)
    telemetry.watch("tracing", counters=tracer.counters)
    with ExitStack() as stack:
        stack.enter_context(tracer)
        way = (
            _Way(spoken=channel.over(transport), plain=transport)
            if transport is not None
            else _connect(settings, channel, standing, telemetry, stopping)
        )
        showing = open_showing(settings, Tier.DEVICE, way.plain, standing=standing, telemetry=telemetry, points=points)
        meter = ShowingMeter(telemetry.meter)
        way.plain.subscribe(topics.operating_point, points)
        way.spoken.subscribe(topics.outcome(node), inbox)
        if inputs is not None and transport is None:
            way.spoken.subscribe(topics.input(node), inputs)
        stack.enter_context(way.connection)
        outbox = open_outbox(
            settings.outbox,
            on_crash=lambda: stopping(CrashError("the outbox's thread died")),
            stack=stack,
        )
        settler = stack.enter_context(
            _settler(
                settings,
                stopping,
                inbox=inbox,
                spoken=way.spoken,
                outbox=outbox,
                meter=meter,
                audit=_open_audit(settings, bundle, telemetry, stack),
            )
        )
        telemetry.watch("requests", counters=settler.totals, gauges=settler.waiting)
        telemetry.watch("operating_points", counters=lambda: {"refused": points.refused})
        telemetry.watch("outbox", counters=lambda: dict(outbox.counters))
        resources = ExitStack()
        agent = Agent(
            node,
            topics,
            model,
            settler,
            way.spoken,
            outbox=outbox,
            limits=settings.device,
            tracer=tracer,
            resources=resources,
        )
        way.spoken.subscribe(topics.status("+", "+"), agent.surroundings)
        if settings.uplink.is_adaptive:
            way.spoken.subscribe(topics.link, LinkCaps(agent.cap_link))
        stack.enter_context(Recovery(agent, outbox.contents, stopping))
        if settings.updates.folder is not None:
            stack.enter_context(
                follow_rollout(
                    settings, agent, model, way.plain, standing=standing, tell=way.tell, meter=meter, points=points
                )
            )
        stack.enter_context(telemetry)
        stack.enter_context(showing)
        resources.enter_context(stack.pop_all())
        return agent


def _tell_nobody() -> None:
    """Announce nothing: the transport is somebody else's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Way:
    """How an agent speaks."""

    spoken: Transport  # through the channel
    plain: Transport  # below it
    connection: AbstractContextManager[object] = field(default_factory=nullcontext)  # to be entered
    tell: Callable[[], None] = _tell_nobody  # publishes the status anew


def _connect(
    settings: DeviceSettings, channel: Channel, standing: Standing, telemetry: Telemetry, stopping: Stopping
) -> _Way:
    """Prepare the connection to the configured broker."""
    topics, node = Topics(settings.mqtt.site), settings.node.id
    status = presence(Tier.DEVICE, node, topics, standing, telemetry.counters)
    own = MqttTransport(settings.mqtt, client_id=node, presence=status, on_fatal=stopping)
    telemetry.watch_connection(own)
    telemetry.watch("channel", counters=channel.counters)
    return _Way(spoken=channel.over(own), plain=own, connection=own, tell=partial(announce, own, status))


def _open_audit(settings: DeviceSettings, bundle: Bundle, telemetry: Telemetry, stack: ExitStack) -> Auditor:
    """Start what computes a share of other tiers' answers again, where one is asked for."""
    limits = settings.device
    if not limits.audit_rate:
        return NoAudit()
    sends_tokens = limits.offload == "tokens"
    audit = stack.enter_context(Audit(bundle, limits.audit_rate, settings.model.threads, sends_tokens=sends_tokens))
    telemetry.watch("audit", counters=lambda: dict(audit.counters))
    return audit


def _settler(
    settings: DeviceSettings,
    stopping: Stopping,
    *,
    inbox: Inbox,
    spoken: Transport,
    outbox: Outbox,
    meter: Meter,
    audit: Auditor,
) -> Settler:
    """Put together what keeps the device's promise."""
    limits, node = settings.device, settings.node.id
    log_topic = Topics(settings.mqtt.site).log
    return Settler(
        inbox,
        spoken,
        Journal(spoken, log_topic, outbox, capacity=limits.max_unrecorded, when_full=limits.when_full),
        AnswerMaker(node, CostModel()),
        run_here=partial(_run_here, node),
        limits=limits,
        log=settings.log,
        on_crash=lambda: stopping(CrashError("the settler thread died")),
        meter=meter,
        audit=audit,
        signatures=NeededSignatures(open_verifier(settings)) if limits.needs_signatures else AnySignature(),
    )


def _run_here(node: str, pending: Pending) -> Exited:
    (verdict,) = run_device_layers(node, [pending])
    return verdict.best
