"""Put a device agent together."""

from contextlib import ExitStack
from functools import partial
from pathlib import Path

from common.config.load import load
from common.config.settings import DeviceSettings
from common.engine.choice import choose_policy, find_clusterer
from common.engine.entrance import Entrance
from common.engine.escalation import Escalation
from common.engine.pipeline import Exited, Pipeline
from common.engine.thinness import Always, Thinness
from common.errors import CrashError
from common.model.bundle import Bundle, open_bundle
from common.routing.cost import CostModel
from common.service.channels import open_channel
from common.service.lifecycle import Stopping
from common.service.telemetry.telemetry import Telemetry
from common.service.tier import presence
from common.service.trust import bundle_gate
from common.transport.contract import Inbox, Transport
from common.transport.mqtt import MqttTransport
from common.types import Tier
from common.wire.topics import Topics, checked
from device_agent.agent import Agent, DeviceModel, run_device_layers
from device_agent.answers import AnswerMaker
from device_agent.journal import Journal
from device_agent.outbox import open_outbox
from device_agent.pending import Pending
from device_agent.recovery import Recovery
from device_agent.settler import Settler


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
    bundle = open_bundle(settings.model.bundle, bundle_gate(settings.model))
    model = load_model(bundle, settings)
    channel = open_channel(settings, Tier.DEVICE)
    inbox = channel.inbox(settings.mqtt.max_inbox)
    telemetry = Telemetry(settings.metrics, Tier.DEVICE, node, bundle.manifest)
    with ExitStack() as stack:
        if transport is None:
            status = presence(Tier.DEVICE, node, topics, bundle.manifest, telemetry.counters)
            own = MqttTransport(settings.mqtt, client_id=node, presence=status, on_fatal=stopping)
            telemetry.watch_connection(own)
            telemetry.watch("channel", counters=channel.counters)
            transport = channel.over(own)
            transport.subscribe(topics.outcome(node), inbox)
            if inputs is not None:
                transport.subscribe(topics.input(node), inputs)
            stack.enter_context(own)
        else:
            transport = channel.over(transport)
            transport.subscribe(topics.outcome(node), inbox)
        outbox = open_outbox(
            settings.outbox.path,
            sync=settings.outbox.sync,
            max_remembered=settings.outbox.max_remembered,
            on_crash=lambda: stopping(CrashError("the outbox's thread died")),
            stack=stack,
        )
        limits = settings.device
        journal = Journal(transport, topics.log, outbox, capacity=limits.max_unrecorded, when_full=limits.when_full)
        settler = stack.enter_context(
            Settler(
                inbox,
                transport,
                journal,
                AnswerMaker(node, bundle.manifest, CostModel()),
                run_here=partial(_run_here, model.pipeline, node),
                limits=limits,
                log=settings.log,
                on_crash=lambda: stopping(CrashError("the settler thread died")),
                meter=telemetry.meter,
            )
        )
        telemetry.watch("requests", counters=settler.totals, gauges=settler.waiting)
        telemetry.watch("outbox", counters=lambda: dict(outbox.counters))
        resources = ExitStack()
        agent = Agent(node, topics, model, settler, transport, outbox=outbox, limits=limits, resources=resources)
        transport.subscribe(topics.status("+", "+"), agent.surroundings)
        stack.enter_context(Recovery(agent, outbox.contents, stopping))
        stack.enter_context(telemetry)
        resources.enter_context(stack.pop_all())
        return agent


def load_model(bundle: Bundle, settings: DeviceSettings) -> DeviceModel:
    """Load the embedding and the device's layers, and run them once."""
    policy = choose_policy(bundle, settings.routing.policy)
    pipeline = Pipeline(bundle, policy, depth=bundle.manifest.depths.device, threads=settings.model.threads)
    thinness = Thinness(codec=settings.device.codec, budget=settings.link.budget, tokens=settings.link.tokens)
    chooser = Always(thinness, pipeline.links)
    model = DeviceModel(
        entrance=Entrance(bundle, policy, clusterer=find_clusterer(bundle), threads=settings.model.threads),
        pipeline=pipeline,
        escalation=Escalation(bundle.manifest, settings.device.codec, links=pipeline.links, chooser=chooser),
    )
    warm_up = ("warm", "up") if bundle.manifest.is_pair else ("warm up", None)
    model.pipeline.advance([model.entrance.enter(*warm_up).state])  # the first run of a session is slow
    return model


def _run_here(pipeline: Pipeline, node: str, pending: Pending) -> Exited:
    verdict = run_device_layers(pipeline, node, pending)
    return verdict if isinstance(verdict, Exited) else verdict.best
