"""Checks through the broker: reach, login, rights per topic, delays, sizes, shared subscriptions and peers.

They take the node's own rights under a client id of their own, and send nothing that anybody would act upon: a request
of no model's revision, a status that stands there already, an empty record. Workers and recorder log each as refused.
"""

import secrets
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from common.commands.finding import Finding, failed, ok, skipped, warning
from common.commands.peer_checks import check_peers, check_update, is_online
from common.config.settings import AnySettings, DeviceSettings, Mqtt
from common.engine.escalation import Escalation
from common.engine.pipeline import State
from common.errors import ConfigError, TransportError, WireError
from common.model.manifest import Manifest
from common.transport.contract import Delivery
from common.transport.probe import Probe
from common.types import NodeStatus, Tier
from common.wire import codec
from common.wire.activations import codec as activation_codec
from common.wire.documents import decode_status, encode_document
from common.wire.messages import Failure, HiddenStates
from common.wire.topics import Topics

_CONNECT_LIMIT_S = 5.0
_QUIET_S = 0.5  # retained messages come at once
_ECHO_LIMIT_S = 2.0
_REPLY_LIMIT_S = 3.0
_NUM_ECHOES = 7
_DELAYED_MS = 25.0  # Nagle waits for an acknowledgement that is delayed by 40 ms
_PACKET_OVERHEAD_BYTES = 1024  # topic, properties, and the hops of the tiers behind
_PROBE_REVISION = "doctor"
_SEALED = "not asked: this site answers sealed requests only; 'dimee device ask' tries the whole way"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """The node whose rights are checked."""

    tier: Tier
    node: str
    topics: Topics
    mqtt: Mqtt
    codec: str
    is_sealed: bool = False  # then workers answer only sealed requests

    @property
    def status(self) -> str:
        """Name this node's status topic."""
        return self.topics.status(self.tier, self.node)


def check_broker(settings: AnySettings, tier: Tier, manifest: Manifest | None) -> Iterator[Finding]:
    """Run every check that needs the broker, in an order in which one explains the next."""
    node = Node(
        tier=tier,
        node=settings.node.id,
        topics=Topics(settings.mqtt.site),
        mqtt=settings.mqtt,
        codec=settings.device.codec if isinstance(settings, DeviceSettings) else settings.worker.codec,
        is_sealed=settings.channel.name != "plain",
    )
    reach = _check_reach(settings.mqtt)
    yield reach
    if reach.state != "ok":
        yield skipped("login", "the broker is out of reach, and with it rights, delays and peers")
        return
    try:
        with Probe(settings.mqtt, f"{node.node}-doctor") as probe:
            yield _login(settings.mqtt, probe)
            yield from _ask(node, probe, manifest)
    except ConfigError as exc:
        yield failed("login", str(exc), "mend the settings in [mqtt], or the broker's users and access control")
    except TransportError as exc:
        yield failed("login", str(exc), "see the broker's own log; is this its MQTT port, with or without TLS?")


def _ask(node: Node, probe: Probe, manifest: Manifest | None) -> Iterator[Finding]:
    statuses, refusal = _statuses(node, probe)
    own = statuses.pop((node.tier, node.node), None)
    here = own or NodeStatus(state="stopped", tier=node.tier, node=node.node)
    yield _right("read", node.topics.status("+", "+"), refusal)
    yield from _check_rights(node, probe, here)
    yield _check_groups(node, probe)
    yield _check_delay(node, probe, here)
    if manifest is not None:
        yield _check_packet(node, probe, manifest)
    if node.tier is Tier.DEVICE and any(is_online(status, Tier.EDGE) for status in statuses.values()):
        yield skipped("edge replies", _SEALED) if node.is_sealed else _check_reply(node, probe)
    serves = here.served if own and own.state == "online" else () if manifest is None else (manifest.revision,)
    yield from check_update(own)
    yield from check_peers(node.tier, list(statuses.values()), serves)


def _check_reach(mqtt: Mqtt) -> Finding:
    started = time.monotonic()
    try:
        socket.create_connection((mqtt.host, mqtt.port), timeout=_CONNECT_LIMIT_S).close()
    except OSError as exc:
        remedy = "start the broker, or correct mqtt.host and mqtt.port; between machines, look at the firewall"
        return failed("broker", f"{mqtt.host}:{mqtt.port}: {exc}", remedy)
    return ok("broker", f"{mqtt.host}:{mqtt.port} answers in {(time.monotonic() - started) * 1000:.1f} ms")


def _login(mqtt: Mqtt, probe: Probe) -> Finding:
    who = "without a user" if mqtt.username is None else f"as user {mqtt.username!r}"
    protected = "plain" if mqtt.tls_ca_file is None else "under TLS"
    return ok("login", f"{who}, {protected}, MQTT {'5' if probe.is_v5 else '3.1.1'}")


def _statuses(node: Node, probe: Probe) -> tuple[dict[tuple[Tier, str], NodeStatus], str | None]:
    refusal = probe.subscribe(node.topics.status("+", "+"))
    found = {}
    while (delivery := probe.receive(_QUIET_S)) is not None:
        try:
            status = decode_status(delivery.payload)
        except WireError:
            continue  # cleared, or not ours
        found[status.tier, status.node] = status
    return found, refusal


def _check_rights(node: Node, probe: Probe, here: NodeStatus) -> Iterator[Finding]:
    for topic in _read_topics(node):
        yield _right("read", topic, probe.subscribe(topic))
    for topic, payload in _written(node, here):
        yield _right("write", topic, probe.publish(topic, payload), is_told=probe.is_v5)


def _read_topics(node: Node) -> list[str]:
    topics = node.topics
    match node.tier:
        case Tier.DEVICE:
            return [topics.outcome(node.node), topics.input(node.node)]
        case Tier.EDGE:
            return [topics.request(Tier.EDGE), topics.log]
        case Tier.CLOUD:
            return [topics.request(Tier.CLOUD)]


def _written(node: Node, here: NodeStatus) -> Iterator[tuple[str, bytes]]:
    topics, request = node.topics, codec.encode(_nobodys_request(node))
    yield node.status, encode_document(here)
    match node.tier:
        case Tier.DEVICE:
            yield topics.request(Tier.EDGE), request
            yield topics.request(Tier.CLOUD), request
            yield topics.log, b""
            yield topics.answer(node.node), encode_document({"id": "doctor", "error": "a probe of dimee doctor"})
        case Tier.EDGE:
            yield topics.request(Tier.CLOUD), request
            yield topics.outcome(f"{node.node}-doctor"), b""
        case Tier.CLOUD:
            yield topics.outcome(f"{node.node}-doctor"), b""


def _nobodys_request(node: Node) -> HiddenStates:
    """Make a request of no model's revision: whoever gets it refuses it, and says so to its sender."""
    sender = node.node if node.tier is Tier.DEVICE else f"{node.node}-doctor"
    return HiddenStates(
        request_id=f"doctor-{secrets.token_hex(6)}",
        device_id=sender,
        model_revision=_PROBE_REVISION,
        split_point=0,
        budget_ms=_REPLY_LIMIT_S * 1000,
        codec="float32",
        tensors=activation_codec("float32").encode(np.zeros((1, 1), np.float32)),
    )


def _right(verb: str, topic: str, refusal: str | None, *, is_told: bool = True) -> Finding:
    check = f"may {verb}"
    if refusal is not None:
        return failed(check, f"{topic}: {refusal}", f"allow this user to {verb} it in the broker's access control")
    return ok(check, topic if is_told else f"{topic} (acknowledged; MQTT 3.1.1 tells no refusal)")


def _check_groups(node: Node, probe: Probe) -> Finding:
    check, topic = "shared subscriptions", node.topics.request(Tier.CLOUD if node.tier is Tier.CLOUD else Tier.EDGE)
    remedy = "run Mosquitto 2 or another MQTT 5 broker, or keep one edge and one cloud worker"
    if not probe.limits.has_groups:
        return warning(check, "the broker has none: every worker of a tier would get every request", remedy)
    if node.tier is Tier.DEVICE:
        return ok(check, "offered by the broker")
    refusal = probe.subscribe(topic, group=f"doctor-{secrets.token_hex(4)}")  # its own group takes work from nobody
    return ok(check, "granted") if refusal is None else failed(check, f"{topic}: {refusal}", remedy)


def _check_delay(node: Node, probe: Probe, here: NodeStatus) -> Finding:
    """Take the time between a message's echo and its acknowledgement, which the broker sends together."""
    echoes_ms, gaps_ms = [], []
    for turn in range(1, _NUM_ECHOES + 1):
        payload = encode_document(here) + b" " * turn  # JSON as before, and yet this turn's own
        started = time.monotonic()
        probe.publish(node.status, payload)
        acknowledged = time.monotonic()
        echo = _receive(probe, partial(_is_echo, payload), _ECHO_LIMIT_S)
        if echo is None:
            return skipped("no delay", f"no echo of {node.status} comes back, so nothing can be measured")
        echoes_ms.append((min(echo.received_at, acknowledged) - started) * 1000)
        gaps_ms.append(abs(echo.received_at - acknowledged) * 1000)
    return judge_delay(statistics.median(echoes_ms), statistics.median(gaps_ms))


def _is_echo(payload: bytes, delivery: Delivery) -> bool:
    return delivery.payload == payload


def judge_delay(echo_ms: float, gap_ms: float) -> Finding:
    """Tell a broker whose second packet waits for a delayed acknowledgement from a link that is merely long."""
    said = f"{echo_ms:.1f} ms for a round trip, {gap_ms:.1f} ms more until its acknowledgement"
    if gap_ms < _DELAYED_MS:
        return ok("no delay", said)
    remedy = "write 'set_tcp_nodelay true' into mosquitto.conf and restart it: Nagle's algorithm delays every answer"
    return failed("no delay", said, remedy)


def _check_packet(node: Node, probe: Probe, manifest: Manifest) -> Finding:
    largest = largest_activation_bytes(manifest, node.codec) + _PACKET_OVERHEAD_BYTES
    limit = min(node.mqtt.max_packet_bytes, probe.limits.max_packet_bytes)
    said = f"the largest activation takes {largest:,} bytes as {node.codec}, a packet may have {limit:,}"
    if largest <= limit:
        return ok("packet size", said)
    remedy = f"raise max_packet_size of the broker and mqtt.max_packet_bytes above {largest}, or choose another codec"
    return failed("packet size", said, remedy)


def largest_activation_bytes(manifest: Manifest, codec_name: str) -> int:
    """Encode hidden states of the longest input."""
    state = State(hidden_states=np.ones((manifest.max_tokens, manifest.hidden_size), np.float32), layers_run=0)
    message = Escalation(manifest, codec_name).pack("0" * 24, "0" * 64, state, budget_ms=1000.0, hops=())
    return len(codec.encode(message))


def _check_reply(node: Node, probe: Probe) -> Finding:
    """See an edge's own answer on this device's topic: both directions work, for both sides."""
    request = _nobodys_request(node)
    started = time.monotonic()
    probe.publish(node.topics.request(Tier.EDGE), codec.encode(request))
    found = _receive(probe, lambda delivery: _is_reply(delivery, request.request_id), _REPLY_LIMIT_S)
    if found is None:
        remedy = "look at the edge's log; the broker must let it write, and this device read, the outcome topic"
        return failed("edge replies", f"none within {_REPLY_LIMIT_S:.0f} s", remedy)
    return ok("edge replies", f"after {(found.received_at - started) * 1000:.1f} ms")


def _is_reply(delivery: Delivery, request_id: str) -> bool:
    try:
        message = codec.decode(delivery.payload)
    except WireError:
        return False
    return isinstance(message, Failure) and message.request_id == request_id


def _receive(probe: Probe, is_wanted: Callable[[Delivery], bool], limit_s: float) -> Delivery | None:
    deadline = time.monotonic() + limit_s
    while (left_s := deadline - time.monotonic()) > 0:
        delivery = probe.receive(left_s)
        if delivery is not None and is_wanted(delivery):
            return delivery
    return None
