"""A site whose broker is blind: everything between the tiers is sealed, and nothing in plain is let in."""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from common.bench.parts import Link
from common.bench.proxy import LinkProxy
from common.certificates.authority import Authority
from common.certificates.names import Role
from common.config.settings import (
    Channel,
    CloudSettings,
    DeviceLimits,
    DeviceLog,
    DeviceSettings,
    EdgeLog,
    EdgeSettings,
    Model,
    Mqtt,
    Node,
    Routing,
)
from common.engine.choice import routing_table
from common.engine.pipeline import Unsure
from common.errors import ConfigError, TransportError
from common.model.bundle import Bundle, open_bundle
from common.model.derivation import derive
from common.model.manifest import ROUTING_FILE
from common.routing.policies import ConfidenceCascade
from common.service.channels import open_channel
from common.service.lifecycle import Stopping
from common.service.loading import open_pipeline
from common.service.presence import Standing, presence
from common.service.served import Identity
from common.service.telemetry.telemetry import Telemetry
from common.service.tier import work
from common.transport.contract import Inbox, Presence, Publication
from common.transport.loopback import LoopbackBroker, LoopbackTransport
from common.transport.mqtt import MqttTransport
from common.transport.outbox import Outgoing
from common.types import Answer, Reason, Tier
from common.wire.activations import CODEC_NAMES, codec
from common.wire.topics import Topics
from device_agent.agent import Agent
from device_agent.build import start_agent
from edge_broker.build import _recorder

TOPICS = Topics("home")
TEXTS = ("fine film with a bright scene", "dull plot and the noisy music", "a warm cast", "flat and empty end")


class Tapped(LoopbackBroker):
    """A broker that remembers and may change what it carries, as a hostile one would."""

    def __init__(self) -> None:
        super().__init__()
        self.carried: list[Outgoing] = []
        self.twist: Callable[[Outgoing], list[Outgoing]] = lambda message: [message]

    def route(self, message: Outgoing) -> None:
        self.carried.append(message)
        for twisted in self.twist(message):
            super().route(twisted)


class SealedSite:
    """Device, edge and cloud in one process, with certificates of one authority, on a tapped broker."""

    def __init__(self, bundle: Bundle, authority: Authority, folder: Path, stack: ExitStack) -> None:
        self.broker = Tapped()
        self.bundle = bundle
        self.authority = authority
        self.folder = folder
        self.counters: dict[str, Callable[[], dict[str, int]]] = {}
        self._stack = stack

    def enter(self, context: Any) -> Any:
        """Keep something open until all nodes have stopped; enter it before they start."""
        return self._stack.enter_context(context)

    def transport(self, node: str, status: Presence | None = None) -> Any:
        return LoopbackTransport(self.broker, client_id=node, presence=status)

    def channel(self, node: str, tier: Tier) -> Channel:
        folder = self.authority.folder
        seal = None if tier is Tier.DEVICE else str(folder / "tiers" / tier)
        own = folder / "nodes" / node
        return Channel(
            name="sealed",
            ca_file=str(folder / "ca.pem"),
            certificate_file=str(own / "certificate.pem"),
            key_file=str(own / "key.pem"),
            tier_key_folder=seal,
        )

    def start(self, tier: Tier, policy: str = "unsure", *, node: str = "") -> None:
        node, stopping = node or f"{tier}-1", Stopping()
        kind = EdgeSettings if tier is Tier.EDGE else CloudSettings
        settings = kind(
            node=Node(id=node),
            model=Model(bundle=str(self.bundle.directory)),
            routing=Routing(policy=policy),
            channel=self.channel(node, tier),
        )
        _, pipeline = open_pipeline(settings, tier)
        channel = open_channel(settings, tier)
        status = presence(tier, node, TOPICS, Standing(revision=self.bundle.revision), tier_key=channel.tier_key)
        transport = self.transport(node, status)
        spoken = channel.over(transport)
        identity = Identity(tier=tier, node=node, topics=TOPICS, manifest=self.bundle.manifest)
        telemetry = Telemetry(settings.metrics, tier, node, self.bundle.manifest)
        _, runner = work(settings, identity, pipeline, spoken, stopping, telemetry=telemetry, channel=channel)
        if isinstance(settings, EdgeSettings):
            settings = msgspec.structs.replace(settings, log=EdgeLog(url=f"sqlite:///{self.folder}/{node}.sqlite"))
            recorder = _recorder(settings, spoken, channel.inbox(1000), stopping, self._stack)
            self._stack.enter_context(transport)
            self._stack.enter_context(recorder)
        else:
            self._stack.enter_context(transport)
        self._stack.enter_context(runner)
        self.counters[node] = channel.counters

    def start_device(self, node: str = "pi-1", **limits: Any) -> Agent:
        settings = DeviceSettings(
            node=Node(id=node),
            mqtt=Mqtt(),
            model=Model(bundle=str(self.bundle.directory)),
            routing=Routing(policy="unsure"),
            device=DeviceLimits(**{"budget_ms": 30_000.0, "retry_ms": 200.0, **limits}),
            log=DeviceLog(keep_text=True, drain_s=5.0),
            channel=self.channel(node, Tier.DEVICE),
        )
        transport = self._stack.enter_context(self.transport(node))
        return self._stack.enter_context(start_agent(settings, Stopping(), transport))

    def logged(self) -> list[tuple[str, str]]:
        """Give texts and exit tiers of the log, by text."""
        with closing(sqlite3.connect(self.folder / "edge-1.sqlite")) as database:
            return database.execute("SELECT text, exit_tier FROM request_log ORDER BY text").fetchall()

    def between_tiers(self) -> list[Outgoing]:
        """Give what was carried but for statuses."""
        return [message for message in self.broker.carried if "/status/" not in message.topic]


@pytest.fixture
def sealed_site(tiny_bundle: Path, tmp_path: Path, authority: Authority) -> Iterator[SealedSite]:
    """A site whose device escalates everything; an edge of policy ``eager`` answers all."""
    source = open_bundle(tiny_bundle)
    table = routing_table(source)
    policies = {
        **table.policies,
        "unsure": ConfidenceCascade(thresholds={}),
        "eager": ConfidenceCascade(thresholds={2: 0.0}),
    }
    changed = msgspec.structs.replace(table, policies=policies)
    bundle = derive(source, tmp_path / "bundle", {ROUTING_FILE: msgspec.json.encode(changed)})
    for tier in (Tier.EDGE, Tier.CLOUD):
        authority.rotate_seal(tier)
    with ExitStack() as stack:
        yield SealedSite(bundle, authority, tmp_path, stack)


@pytest.mark.parametrize(("policy", "tier"), [("eager", Tier.EDGE), ("unsure", Tier.CLOUD)])
def test_requests_are_answered_and_logged_through_a_blind_broker(
    sealed_site: SealedSite, policy: str, tier: Tier
) -> None:
    sealed_site.start(Tier.EDGE, policy)
    sealed_site.start(Tier.CLOUD)

    agent = sealed_site.start_device()
    answers = [agent.classify(text) for text in TEXTS]

    assert {(answer.exit_tier, answer.reason is Reason.DEGRADED) for answer in answers} == {(tier, False)}
    wait_until(lambda: sealed_site.logged() == [(text, tier) for text in sorted(TEXTS)])


def test_a_captured_run_holds_no_plaintext(sealed_site: SealedSite) -> None:
    sealed_site.start(Tier.EDGE)
    sealed_site.start(Tier.CLOUD)

    agent = sealed_site.start_device()
    answers = [agent.classify(text) for text in TEXTS]

    carried = b"\0".join(message.payload for message in sealed_site.between_tiers())
    assert len(carried) > 4 * 500
    hidden = [*plaintext(agent, answers), sealed_site.bundle.revision.encode()]
    assert [secret for secret in hidden if secret in carried] == []


def plaintext(agent: Agent, answers: list[Answer]) -> list[bytes]:
    """Give what must not be seen: words, labels, how states are packed, and every piece of those that leave."""
    words = [word for text in TEXTS for word in text.split()] + [answer.label for answer in answers if answer.label]
    hidden = [word.encode() for word in words if len(word) > 3] + [b"int8"]
    for text in TEXTS:
        entered = agent._model.entrance.enter(text)
        (verdict,) = agent._model.pipeline.advance([entered.state])
        assert isinstance(verdict, Unsure)
        for codec_name in CODEC_NAMES:
            tensors = codec(codec_name).encode(verdict.state.hidden_states)
            pieces = [tensor.data[start : start + 8] for tensor in tensors for start in range(0, len(tensor.data), 8)]
            hidden += [piece for piece in pieces if len(set(piece)) > 3]  # a few bytes alone may be anything
    return hidden


class Capture(LinkProxy):
    """What stands in all packets between the nodes and their broker."""

    def __init__(self, target: tuple[str, int]) -> None:
        super().__init__(target, Link())
        self.packets = bytearray()

    def passed(self, chunk: bytes, *, is_up: bool) -> None:
        super().passed(chunk, is_up=is_up)
        self.packets += chunk


@pytest.mark.broker
@pytest.mark.parametrize("is_sealed", [True, False])
def test_a_packet_capture_without_tls_holds_plaintext_only_where_it_is_not_sealed(
    mosquitto: Any, sealed_site: SealedSite, is_sealed: bool
) -> None:
    capture = sealed_site.enter(Capture((mosquitto.host, mosquitto.port)))
    sealed_site.transport = lambda node, status=None: MqttTransport(  # type: ignore[method-assign]
        Mqtt(port=capture.port), client_id=node, presence=status
    )
    if not is_sealed:
        sealed_site.channel = lambda _node, _tier: Channel()  # type: ignore[method-assign]
    sealed_site.start(Tier.EDGE)
    sealed_site.start(Tier.CLOUD)
    agent = sealed_site.start_device()
    answers = [agent.classify(text) for text in TEXTS]
    wait_until(lambda: sealed_site.logged() == [(text, Tier.CLOUD) for text in sorted(TEXTS)])

    seen = {secret for secret in plaintext(agent, answers) if secret in bytes(capture.packets)}

    assert len(capture.packets) > 4 * 2000
    assert (len(seen) > 40) is not is_sealed
    assert (seen == set()) is is_sealed


def test_the_search_would_find_plaintext(sealed_site: SealedSite) -> None:
    """The control: a plain channel carries exactly what the search above looks for."""
    sealed_site.channel = lambda _node, _tier: Channel()  # type: ignore[method-assign]
    sealed_site.start(Tier.EDGE)
    sealed_site.start(Tier.CLOUD)
    agent = sealed_site.start_device()
    agent.classify(TEXTS[0])

    carried = b"\0".join(message.payload for message in sealed_site.between_tiers())
    assert b"int8" in carried
    assert sealed_site.bundle.revision.encode() in carried


def test_a_rotated_tier_key_is_taken_up_from_its_announcement_while_requests_run(sealed_site: SealedSite) -> None:
    sealed_site.authority.issue("edge-2", Role.EDGE)
    sealed_site.start(Tier.EDGE, "eager")
    agent = sealed_site.start_device()
    before = agent.classify(TEXTS[0])

    sealed_site.authority.rotate_seal(Tier.EDGE)
    sealed_site.start(Tier.EDGE, "eager", node="edge-2")
    after = [agent.classify(text) for text in TEXTS]

    assert [hop.node for hop in before.hops] == ["pi-1", "edge-1"]
    assert {answer.hops[-1].node for answer in after} == {"edge-2"}, "edge-1 does not hold the new key"
    assert sealed_site.counters["edge-2"]()["opened"] >= len(TEXTS)


def test_a_sealed_tier_takes_nothing_plain(sealed_site: SealedSite) -> None:
    sealed_site.start(Tier.EDGE, "eager")
    sealed_site.channel = lambda _node, _tier: Channel()  # type: ignore[method-assign]
    agent = sealed_site.start_device(budget_ms=700.0)

    answer = agent.classify(TEXTS[0])

    assert answer.reason is Reason.DEGRADED
    wait_until(lambda: sealed_site.counters["edge-1"]()["refused_plain"] >= 1)


def test_a_sealed_device_takes_nothing_plain_and_degrades_without_a_sealed_tier(sealed_site: SealedSite) -> None:
    plain = sealed_site.channel
    sealed_site.channel = lambda _node, _tier: Channel()  # type: ignore[method-assign]
    sealed_site.start(Tier.EDGE, "eager")
    sealed_site.channel = plain  # type: ignore[method-assign]
    agent = sealed_site.start_device(budget_ms=700.0)

    answer = agent.classify(TEXTS[0])

    assert answer.reason is Reason.DEGRADED
    assert sealed_site.between_tiers() == []


def test_what_a_hostile_broker_repeats_redirects_or_reflects_is_refused_and_counted(sealed_site: SealedSite) -> None:
    first_outcome: list[Outgoing] = []

    def twist(message: Outgoing) -> list[Outgoing]:
        if message.topic == TOPICS.request(Tier.EDGE):
            reflected = msgspec.structs.replace(message, topic=TOPICS.outcome("pi-1"))
            return [message, message, message, reflected]
        if message.topic == TOPICS.outcome("pi-1"):
            first_outcome.append(message)
            return [first_outcome[0], message, message, msgspec.structs.replace(message, topic=TOPICS.outcome("pi-2"))]
        return [message]

    sealed_site.broker.twist = twist
    sealed_site.start(Tier.EDGE, "eager")
    agent, other = sealed_site.start_device(), sealed_site.start_device("pi-2")

    answers = [agent.classify(text) for text in TEXTS]

    assert [answer.exit_tier for answer in answers] == [Tier.EDGE] * len(TEXTS)
    wait_until(lambda: agent.counters["refused_replayed"] >= 2 * len(TEXTS) - 1)
    wait_until(lambda: sealed_site.counters["edge-1"]()["refused_replayed"] >= 2 * len(TEXTS))
    wait_until(lambda: agent.counters["refused_plain"] >= len(TEXTS))
    wait_until(lambda: other.counters["refused_stranger"] >= len(TEXTS))
    assert other.counters.get("opened", 0) == 0


def test_a_device_cannot_speak_or_log_for_another(sealed_site: SealedSite) -> None:
    sealed_site.start(Tier.EDGE, "eager")
    thief = sealed_site.start_device("pi-1", budget_ms=700.0)
    thief.device_id = thief._departures._device_id = "pi-2"

    thief.submit(TEXTS[0]).result()

    wait_until(lambda: sealed_site.counters["edge-1"]()["refused_substituted"] >= 1)


def test_an_application_is_no_device(sealed_site: SealedSite) -> None:
    sealed_site.start(Tier.EDGE, "eager")
    sealed_site.authority.issue("pi-9", Role.APPLICATION)
    agent = sealed_site.start_device("pi-9", budget_ms=700.0)

    assert agent.classify(TEXTS[0]).reason is Reason.DEGRADED
    wait_until(lambda: sealed_site.counters["edge-1"]()["refused_substituted"] >= 1)


def test_messages_that_leave_together_are_each_sealed_or_refused(sealed_site: SealedSite) -> None:
    sealed_site.start(Tier.EDGE)
    agent, request = sealed_site.start_device(), TOPICS.request(Tier.EDGE)
    before = len(sealed_site.broker.carried)
    topics = (request, TOPICS.answer("pi-1"), request)

    refusals = agent.transport.publish_all([Publication(topic, b"SECRET %d" % n) for n, topic in enumerate(topics)])

    carried = [message for message in sealed_site.broker.carried[before:] if message.topic in topics]
    assert [refusal is None for refusal in refusals] == [True, False, True]
    assert "would be plain" in str(refusals[1])
    assert [(message.topic, message.payload[:4]) for message in carried] == [(request, b"dSQ1")] * 2
    assert not any(b"SECRET" in message.payload for message in carried)


def test_inputs_and_answers_in_plain_are_left_out_of_a_sealed_device(sealed_site: SealedSite) -> None:
    agent, inbox = sealed_site.start_device(), Inbox(10)
    agent.transport.subscribe(TOPICS.input("pi-1"), inbox)

    with pytest.raises(TransportError, match="would be plain"):
        agent.transport.publish(TOPICS.answer("pi-1"), b"{}")
    with LoopbackTransport(sealed_site.broker, client_id="app") as app:
        app.publish(TOPICS.input("pi-1"), b"a text")
    assert len(inbox) == 0


def test_inputs_and_answers_in_plain_are_possible_for_who_asks(sealed_site: SealedSite) -> None:
    settings = DeviceSettings(
        node=Node(id="pi-1"),
        channel=msgspec.structs.replace(sealed_site.channel("pi-1", Tier.DEVICE), has_plain_inputs=True),
    )
    heard, answered = Inbox(10), Inbox(10)
    with (
        LoopbackTransport(sealed_site.broker, client_id="pi-1") as own,
        LoopbackTransport(sealed_site.broker, client_id="app") as app,
    ):
        device = open_channel(settings, Tier.DEVICE).over(own)
        device.subscribe(TOPICS.input("pi-1"), heard)
        app.subscribe(TOPICS.answer("pi-1"), answered)

        app.publish(TOPICS.input("pi-1"), b"a text")
        device.publish(TOPICS.answer("pi-1"), b"{}")

        assert (heard.get(60.0), answered.get(60.0)) != (None, None)
        with pytest.raises(TransportError, match="would be plain"):
            device.publish(TOPICS.answer("pi-2"), b"{}")


def test_statuses_are_heard_in_plain(sealed_site: SealedSite) -> None:
    sealed_site.start(Tier.EDGE)
    agent, inbox = sealed_site.start_device(), Inbox(10)

    agent.transport.subscribe(TOPICS.status("+", "+"), inbox)

    assert inbox.get(60.0) is not None


def test_a_sealed_node_must_be_its_certificates_name(sealed_site: SealedSite) -> None:
    settings = DeviceSettings(node=Node(id="pi-2"), channel=sealed_site.channel("pi-1", Tier.DEVICE))

    with pytest.raises(ConfigError, match="the certificate is for 'pi-1'"):
        open_channel(settings, Tier.DEVICE)


@pytest.mark.parametrize(("tier", "key"), [(Tier.DEVICE, "certificate_file"), (Tier.EDGE, "tier_key_folder")])
def test_a_missing_setting_is_named(tier: Tier, key: str) -> None:
    kind = DeviceSettings if tier is Tier.DEVICE else EdgeSettings

    with pytest.raises(ConfigError, match=rf"channel\.{key} is missing"):
        open_channel(kind(node=Node(id="n"), channel=Channel(name="sealed")), tier)


def wait_until(condition: Callable[[], bool], limit_s: float = 60.0) -> None:
    """Look until a condition holds."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.01)
