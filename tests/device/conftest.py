"""A device with an edge and a cloud worker on the in-process broker."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from common.config.settings import (
    DeviceLimits,
    DeviceLog,
    DeviceSettings,
    Model,
    Mqtt,
    Node,
    Outbox,
    Routing,
    Uplink,
    Worker,
)
from common.engine.choice import routing_table
from common.engine.escalation import Escalation
from common.engine.pipeline import Pipeline
from common.engine.thinness import Always, Thinness
from common.model.bundle import Bundle, open_bundle
from common.model.derivation import derive
from common.model.manifest import ROUTING_FILE
from common.routing.policies import ConfidenceCascade
from common.service.lifecycle import Stopping
from common.service.runner import Runner
from common.service.served import Identity
from common.service.worker import TierWorker
from common.store.engine import writable_log
from common.store.writer import RequestLogWriter
from common.transport.contract import Inbox
from common.transport.loopback import LoopbackBroker, LoopbackTransport
from common.types import Record, Tier
from common.wire import codec
from common.wire.messages import LogRecord, LogRecords, Receipt
from common.wire.topics import Topics
from device_agent.agent import Agent
from device_agent.build import start_agent
from edge_broker.recorder import Receipts, Recorder

TOPICS = Topics("home")
_INT8 = Thinness(codec="int8")


class Site:
    """Tiers in one process, started as a test needs them."""

    def __init__(self, bundle: Bundle, stack: ExitStack) -> None:
        self.broker = LoopbackBroker()
        self.bundle = bundle
        self.records: list[Record] = []
        self._stack = stack

    def transport(self, client_id: str) -> LoopbackTransport:
        return self._stack.enter_context(LoopbackTransport(self.broker, client_id=client_id))

    def start_tier(
        self,
        tier: Tier,
        *,
        thresholds: dict[int, float] | None = None,
        takes_tokens: bool = False,
        thinness: Thinness = _INT8,
    ) -> TierWorker:
        """Start a worker that exits by ``thresholds``, by default never before its end, and escalates so thin."""
        manifest = self.bundle.manifest
        policy = ConfidenceCascade(thresholds=thresholds or {})
        pipeline = Pipeline(self.bundle, policy, depth=manifest.depths.of(tier), takes_tokens=takes_tokens)
        transport = self.transport(str(tier))
        identity = Identity(tier=tier, node=f"{tier}-1", topics=TOPICS, manifest=manifest)
        chooser = Always(thinness, pipeline.links)
        escalation = Escalation(manifest, thinness.codec, links=pipeline.links, chooser=chooser)
        worker = TierWorker(
            identity,
            pipeline,
            transport,
            escalation=escalation if tier is Tier.EDGE else None,
            max_remembered=Worker().max_remembered,
        )
        inbox = Inbox(100)
        transport.subscribe(TOPICS.request(tier), inbox, group=str(tier))
        self._stack.enter_context(Runner("inference", inbox, worker, Stopping()))
        return worker

    def start_recorder(self) -> None:
        """Receipt every record and keep it in ``records``."""
        transport, inbox = self.transport("recorder"), Inbox(10_000)
        transport.subscribe(TOPICS.log, inbox)
        self._stack.enter_context(Runner("recorder", inbox, _Receipting(transport, self.records), Stopping()))

    @contextmanager
    def recording(self, url: str) -> Iterator[None]:
        """Keep a real log as the edge does."""
        transport, inbox = self.transport("recorder"), Inbox(10_000)
        transport.subscribe(TOPICS.log, inbox)
        receipts = Receipts(transport, TOPICS, "edge-1")
        with (
            writable_log(url) as engine,
            RequestLogWriter(engine, on_committed=receipts.send) as writer,
            Runner("recorder", inbox, Recorder(writer, receipts), Stopping()),
        ):
            yield

    @staticmethod
    def wait_for(claim: Callable[[], bool], limit_s: float = 60.0) -> None:
        """Wait until a claim holds."""
        end, pause = time.monotonic() + limit_s, threading.Event()
        while not claim():
            assert time.monotonic() < end, "it never came true"
            pause.wait(0.01)

    def start_device(
        self,
        *,
        policy: str = "unsure",
        outbox: Path | None = None,
        drain_s: float = 5.0,
        is_adaptive: bool = False,
        **limits: Any,
    ) -> Agent:
        settings = DeviceSettings(
            node=Node(id="pi-1"),
            mqtt=Mqtt(),
            model=Model(bundle=str(self.bundle.directory)),
            routing=Routing(policy=policy),
            device=DeviceLimits(**{"budget_ms": 30_000.0, **limits}),
            log=DeviceLog(keep_text=True, drain_s=drain_s),
            uplink=Uplink(is_adaptive=is_adaptive),
            outbox=Outbox(path=None if outbox is None else str(outbox)),
        )
        return self._stack.enter_context(start_agent(settings, Stopping(), self.transport("pi-1")))


class _Receipting:
    def __init__(self, transport: LoopbackTransport, records: list[Record]) -> None:
        self._transport = transport
        self._records = records

    def handle(self, deliveries: list[Any]) -> None:
        for delivery in deliveries:
            message = codec.decode(delivery.payload)
            payloads = message.messages if isinstance(message, LogRecords) else (delivery.payload,)
            for payload in payloads:
                part = codec.decode(payload)
                assert isinstance(part, LogRecord)
                self._records.append(part.record)
                receipt = Receipt(request_ids=(part.record.answer.request_id,))
                self._transport.publish(TOPICS.outcome("pi-1"), codec.encode(receipt))


@pytest.fixture
def site(tiny_bundle: Path, tmp_path: Path) -> Iterator[Site]:
    """A site whose device escalates everything, unless a policy by name says otherwise."""
    source = open_bundle(tiny_bundle)
    table = routing_table(source)
    unsure = msgspec.structs.replace(table, policies={**table.policies, "unsure": ConfidenceCascade(thresholds={})})
    bundle = derive(source, tmp_path / "bundle", {ROUTING_FILE: msgspec.json.encode(unsure)})
    with ExitStack() as stack:
        yield Site(bundle, stack)
