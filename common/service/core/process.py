"""``python -m common.service.core.process SOCKET REGION``: the inside of the trusted core.

What was sealed to this tier is opened here, computed on here and sealed again here; a stored request never leaves.
"""

import itertools
import logging
import os
import socket
import sys
from collections import OrderedDict, deque
from typing import TypeVar

import msgspec

from common.channel.contract import Channel
from common.config.settings import CloudSettings, EdgeSettings
from common.engine.choice import choose_policy
from common.engine.pipeline import Pipeline
from common.errors import ConfigError, DimeeError, WireError
from common.model.bundle import Bundle, open_bundle
from common.service.channels import open_channel
from common.service.computing import open_escalation, open_layers
from common.service.core.calls import (
    Call,
    Compute,
    Computed,
    InitModel,
    Loaded,
    LoadModel,
    Ready,
    Refused,
    Released,
    Reply,
    Result,
    Store,
    Stored,
    Wire,
)
from common.service.core.confinement import confine
from common.service.served import Identity
from common.service.signatures import open_signer
from common.service.trust import bundle_gate
from common.service.worker import TierWorker
from common.transport.contract import Delivery, Inbox, Transport
from common.transport.routes import Routes, Subscription
from common.types import Tier
from common.wire.codec import headings, peek
from common.wire.topics import Topics

_LOGGER = logging.getLogger(__name__)
_Kept = TypeVar("_Kept")
_MAX_STORED = 2048  # requests and results that nobody has asked for; the oldest give way


class Hatch(Transport):
    """A transport that leads to the caller: what is published waits until it is asked for."""

    is_connected = True

    def __init__(self) -> None:
        self.routes = Routes()
        self.published: deque[tuple[str, bytes]] = deque()

    def subscribe(self, topic: str, inbox: Inbox, *, group: str | None = None) -> None:
        """Bring in what the caller stores under this topic."""
        self.routes.add(Subscription(topic, group), inbox)

    def unsubscribe(self, topic: str) -> None:
        """Keep listening: a core lives as long as its subscriptions."""

    def publish(
        self, topic: str, payload: bytes, *, qos: int = 1, is_retained: bool = False, expiry_s: float | None = None
    ) -> None:
        """Keep it for the caller; how it is sent is the caller's to say."""
        del qos, is_retained, expiry_s
        self.published.append((topic, payload))

    def wait_connected(self, timeout: float) -> bool:
        """Say yes."""
        del timeout
        return True

    def counters(self) -> dict[str, int]:
        """Count nothing."""
        return {}


class Core:
    """Carries out the calls, one at a time."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._handles = itertools.count(1)
        self._requests: OrderedDict[int, Delivery] = OrderedDict()  # opened
        self._results: OrderedDict[int, tuple[str, bytes]] = OrderedDict()  # may leave
        self._loading: tuple[Tier, EdgeSettings | CloudSettings, Bundle, Pipeline] | None = None
        self._ready: _Ready | None = None

    def serve(self) -> None:
        """Answer calls until the caller is gone."""
        while (call := self._wire.hear_call()) is not None:
            try:
                reply = self._answer(call)
            except DimeeError as exc:
                reply = Refused(error=type(exc).__name__, detail=str(exc))
            self._wire.send(reply)

    def _answer(self, call: Call) -> Reply:
        match call:
            case LoadModel():
                return self._load(call)
            case InitModel():
                return self._init()
            case Store():
                return self._store(call, self._wire.take(call.length))
            case Compute():
                return self._compute(call)
            case Result():
                return self._release(call.handle)

    def _load(self, call: LoadModel) -> Loaded:
        bundle = open_bundle(call.settings.model.bundle, bundle_gate(call.settings.model))
        policy = choose_policy(bundle, call.settings.routing.policy)
        pipeline = open_layers(bundle, call.settings, call.tier, policy)
        self._loading = (call.tier, call.settings, bundle, pipeline)
        return Loaded(length=self._wire.put(msgspec.json.encode(bundle.manifest)))

    def _init(self) -> Ready:
        if self._loading is None:
            raise ConfigError("the trusted core was asked to begin before it loaded a model")
        tier, settings, bundle, pipeline = self._loading
        from common.channel.sessions import rehearse  # noqa: PLC0415 - cryptography is an extra

        self._ready = ready = _Ready(tier, settings, bundle, pipeline)
        rehearse()
        return Ready(
            tier_key=ready.channel.tier_key,
            depth=pipeline.depth,
            confinement=confine(settings.channel.core_user),
        )

    def _begun(self) -> "_Ready":
        if self._ready is None:
            raise ConfigError("the trusted core was asked to work before it was ready")
        return self._ready

    def _store(self, call: Store, payload: bytes) -> Stored:
        ready = self._begun()
        if call.topic.startswith(ready.outcomes):  # what the log says to a device
            if [heading.tag for heading in headings(payload)] != ["R"]:
                raise WireError("only receipts are sealed for the caller; answers are made in here")
            ready.spoken.publish(call.topic, payload)
            (handle,) = self._publishable()
            return Stored(handle=handle)
        ready.hatch.routes.dispatch(call.topic, payload)
        request, record = ready.requests.get(0), ready.records.get(0)
        if record is not None:
            return Stored(handle=self._keep(self._results, (record.topic, record.payload)))
        if request is None:
            return Stored(counters=ready.channel.counters())
        known = peek(request.payload)
        kept = Delivery(request.topic, request.payload, call.received_at)
        handle = self._keep(self._requests, kept)
        return Stored(handle=handle, device_id=known.device_id, budget_ms=known.budget_ms, is_retry=known.is_retry)

    def _compute(self, call: Compute) -> Computed:
        ready = self._begun()
        found = [self._requests.pop(handle) for handle in call.handles if handle in self._requests]
        ready.worker.handle(found)
        counters = {**ready.worker.counters, **ready.channel.counters()}
        return Computed(handles=self._publishable(), counters=counters)

    def _release(self, handle: int) -> Released:
        if handle not in self._results:
            raise WireError(f"handle {handle} holds nothing that may leave")
        topic, payload = self._results.pop(handle)
        return Released(topic=topic, length=self._wire.put(payload))

    def _publishable(self) -> tuple[int, ...]:
        published = self._begun().hatch.published
        handles = tuple(self._keep(self._results, each) for each in published)
        published.clear()
        return handles

    def _keep(self, where: OrderedDict[int, _Kept], what: _Kept) -> int:
        handle = next(self._handles)
        where[handle] = what
        while len(where) > _MAX_STORED:
            where.popitem(last=False)
        return handle


class _Ready:
    """Keys, model and worker of one tier."""

    def __init__(self, tier: Tier, settings: EdgeSettings | CloudSettings, bundle: Bundle, pipeline: Pipeline) -> None:
        topics = Topics(settings.mqtt.site)
        identity = Identity(tier=tier, node=settings.node.id, topics=topics, manifest=bundle.manifest)
        self.outcomes = topics.outcome("").partition("//")[0] + "/"
        self.hatch = Hatch()
        self.channel: Channel = open_channel(settings, tier)
        self.spoken: Transport = self.channel.over(self.hatch)
        self.worker = TierWorker(
            identity,
            pipeline,
            self.spoken,
            escalation=open_escalation(settings, bundle.manifest, pipeline),
            max_remembered=settings.worker.max_remembered,
            signer=open_signer(settings),
        )
        self.requests, self.records = self.channel.inbox(1), self.channel.inbox(1)
        self.spoken.subscribe(topics.request(tier), self.requests)
        if tier is Tier.EDGE:
            self.spoken.subscribe(topics.log, self.records)


def main() -> None:
    """Serve on the descriptors that the command line names."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s core: %(message)s")
    number, region = map(int, sys.argv[1:])
    with socket.socket(fileno=number) as sock:
        wire = Wire(sock, region)
        os.close(region)
        Core(wire).serve()


if __name__ == "__main__":
    main()
