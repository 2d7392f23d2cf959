"""Two sites' brokers joined by Mosquitto's own bridge, as infra/mosquitto/bridge.conf sets it up."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from brokers import Mosquitto
from tiers import running

import cloud_worker.build
from common.config.settings import CloudSettings, DeviceLimits, DeviceLog, DeviceSettings, Model, Node, Routing
from common.model.bundle import open_bundle
from common.routing.operating_point import OperatingPoint, encode_point
from common.service.lifecycle import Stopping
from common.transport.contract import Inbox
from common.types import Reason, Tier
from common.wire.documents import decode_status
from common.wire.topics import Topics
from device_agent.build import start_agent

pytestmark = [pytest.mark.e2e, pytest.mark.broker]
LIMIT_S = 60.0
TOPICS = Topics("home")
BRIDGE = Path(__file__).parents[2] / "infra" / "mosquitto" / "bridge.conf"


@pytest.fixture
def brokers(make_mosquitto: Any) -> Iterator[tuple[Mosquitto, Mosquitto]]:
    """The edge's broker, with the bridge, and the cloud's."""
    cloud = make_mosquitto()
    lines = [line for line in BRIDGE.read_text(encoding="utf-8").splitlines() if not line.startswith("bridge_c")]
    here = [line for line in lines if not line.startswith("bridge_keyfile")]  # over loopback without certificates
    assert "address cloud.example:8883" in here
    here = [line.replace("cloud.example:8883", f"{cloud.host}:{cloud.port}") for line in here]
    with cloud, make_mosquitto("allow_anonymous true", *here) as edge:
        yield edge, cloud


def wait_status(stack: ExitStack, broker: Mosquitto, tier: Tier, state: str) -> None:
    """Wait until a broker has a tier's status."""
    inbox = Inbox(100)
    watcher = stack.enter_context(broker.transport(f"watch-{tier}-{state}"))
    watcher.subscribe(TOPICS.status(tier, "+"), inbox)
    while (delivery := inbox.get(LIMIT_S)) is not None:
        if decode_status(delivery.payload).state == state:
            return
    pytest.fail(f"no {tier} became {state}")


def test_a_request_crosses_the_bridge_and_its_outcome_comes_back(
    brokers: tuple[Mosquitto, Mosquitto], tiny_bundle: Path
) -> None:
    edge, cloud = brokers
    model, routing = Model(bundle=str(tiny_bundle)), Routing(policy="cloud-only")
    worker = CloudSettings(node=Node(id="cloud-1"), mqtt=cloud.settings(site="home"), model=model, routing=routing)
    device = DeviceSettings(
        node=Node(id="pi-1"),
        mqtt=edge.settings(site="home"),
        model=model,
        routing=routing,
        device=DeviceLimits(budget_ms=LIMIT_S * 1000, shadow_ms=LIMIT_S * 1000),
        log=DeviceLog(drain_s=0.1),
    )
    with running(cloud_worker.build, worker), ExitStack() as stack:
        wait_status(stack, edge, Tier.CLOUD, "online")
        agent = stack.enter_context(start_agent(device, Stopping()))
        wait_status(stack, cloud, Tier.DEVICE, "online")
        answers = [agent.classify(text) for text in ("the film", "a scene and music")]

    assert [(answer.exit_tier, answer.reason) for answer in answers] == [(Tier.CLOUD, Reason.FINAL)] * 2


def test_an_operating_point_crosses_the_bridge_retained(
    brokers: tuple[Mosquitto, Mosquitto], tiny_bundle: Path
) -> None:
    edge, cloud = brokers
    point = encode_point(OperatingPoint(revision=open_bundle(str(tiny_bundle)).revision, policy="device-only"))
    early, late = Inbox(8), Inbox(8)
    with edge.transport("operator") as operator, cloud.transport("early") as first:
        first.subscribe(TOPICS.operating_point, early)
        assert first.wait_connected(LIMIT_S)
        operator.publish(TOPICS.operating_point, point, is_retained=True)
        arrived = early.get(LIMIT_S)
        second = cloud.transport("late")
        second.subscribe(TOPICS.operating_point, late)
        with second:
            kept = late.get(LIMIT_S)

    assert arrived is not None
    assert kept is not None
    assert arrived.payload == kept.payload == point
