"""Put an edge together and run it."""

from contextlib import ExitStack

from common.config.settings import EdgeSettings
from common.errors import CrashError
from common.service.lifecycle import Stopping, keep_loaded
from common.service.runner import Runner
from common.service.tier import open_tier
from common.service.trust import open_vault
from common.store.engine import writable_log
from common.store.lock import sole_writer
from common.store.quarantine import Quarantine
from common.store.retention import Retention
from common.store.writer import RequestLogWriter
from common.transport.contract import Inbox, Transport
from common.transport.embedded import EmbeddedBroker
from common.types import Tier
from common.wire.topics import Topics
from edge_broker.recorder import Receipts, Recorder


def run(settings: EdgeSettings, stopping: Stopping) -> None:
    """Serve until asked to stop, then finish what was accepted.

    Raises:
        ConfigError: A setting is wrong, or the broker refuses this node.
        ArtifactError: The bundle is not intact.
        StoreError: The log cannot be opened.
        CrashError: A thread died.
    """
    node = open_tier(settings, Tier.EDGE, stopping)
    with ExitStack() as stack:  # what is entered last stops first
        stack.enter_context(node.core)
        if settings.broker.is_enabled:
            stack.enter_context(
                EmbeddedBroker(
                    settings.broker.host,
                    settings.broker.port,
                    tls_folder=settings.broker.tls_folder,
                    on_fatal=stopping,
                )
            )
        log = node.channel.inbox(settings.mqtt.max_inbox)
        recorder = None
        if settings.log.is_recorder:
            recorder = _recorder(settings, node.spoken, log, stopping, stack, quarantine=node.quarantine)
        stack.enter_context(node.quarantine)
        stack.enter_context(node.tracer)
        stack.enter_context(node.transport)
        if recorder is not None:
            recorder.observe(node.telemetry)
            stack.enter_context(recorder)
        stack.enter_context(node.runner)
        stack.enter_context(node.updates)
        stack.enter_context(node.telemetry)
        stack.enter_context(node.showing)
        node.tell_saturation()
        keep_loaded()
        stopping.wait()
    stopping.raise_error()


def _recorder(
    settings: EdgeSettings,
    transport: Transport,
    inbox: Inbox,
    stopping: Stopping,
    stack: ExitStack,
    *,
    quarantine: Quarantine | None = None,
) -> Runner:
    """Open the log, to be closed with the stack, and subscribe to the records."""
    topics = Topics(settings.mqtt.site)
    receipts = Receipts(transport, topics, settings.node.id)
    stack.enter_context(sole_writer(settings.log.url))
    engine = stack.enter_context(writable_log(settings.log.url, synchronous="FULL"))  # a receipt outlives a power cut
    if settings.log.keep_days is not None:
        stack.enter_context(Retention(engine, settings.log.keep_days))
    vault = open_vault("log.key_file", settings.log.key_file)
    writer = RequestLogWriter(
        engine,
        on_committed=receipts.send,
        on_crash=lambda: stopping(CrashError("the log cannot be written")),
    )
    stack.enter_context(writer)
    transport.subscribe(topics.log, inbox)
    return Runner("recorder", inbox, Recorder(writer, receipts, quarantine, vault), stopping, max_batch=256)
