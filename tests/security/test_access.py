"""What a certificate allows, topic by topic, on each broker; a stolen one opens nothing of others."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.certificates.access import access_list
from common.certificates.names import Role
from common.errors import ConfigError
from common.transport.access import AccessList
from common.transport.contract import Inbox, Presence
from common.transport.mqtt import MqttTransport
from common.wire.topics import Topics

pytestmark = pytest.mark.broker
ROOT = "dimee/v1/home"
TOPICS = {
    "edge request": f"{ROOT}/edge/request",
    "cloud request": f"{ROOT}/cloud/request",
    "log": f"{ROOT}/log",
    "own outcome": f"{ROOT}/device/{{me}}/outcome",
    "own input": f"{ROOT}/device/{{me}}/input",
    "own answer": f"{ROOT}/device/{{me}}/answer",
    "own status": f"{ROOT}/status/device/{{me}}",
    "own claim": f"{ROOT}/status/device/{{me}}/claim",
    "pi-2's outcome": f"{ROOT}/device/pi-2/outcome",
    "pi-2's input": f"{ROOT}/device/pi-2/input",
    "pi-2's answer": f"{ROOT}/device/pi-2/answer",
    "pi-2's status": f"{ROOT}/status/device/pi-2",
    "pi-2's claim": f"{ROOT}/status/device/pi-2/claim",
    "edge-1's status": f"{ROOT}/status/edge/edge-1",
    "edge-1's claim": f"{ROOT}/status/edge/edge-1/claim",
    "cloud-1's status": f"{ROOT}/status/cloud/cloud-1",
    "a new edge's status": f"{ROOT}/status/edge/{{me}}",
    "another site's log": "dimee/v1/work/log",
    "another version": "dimee/v2/home/log",
    "own figures": f"{ROOT}/status/device/{{me}}/figures",
    "own discovery": "homeassistant/device/dimee-home-device/{me}/config",
    "pi-2's figures": f"{ROOT}/status/device/pi-2/figures",
    "pi-2's discovery": "homeassistant/device/dimee-home-device/pi-2/config",
    "edge-1's figures": f"{ROOT}/status/edge/edge-1/figures",
    "edge-1's discovery": "homeassistant/device/dimee-home-edge/edge-1/config",
    "another discovery": "homeassistant/device/lamp/config",
    "birth": "homeassistant/status",
    "operating point": f"{ROOT}/model/operating-point",
    "rollout": f"{ROOT}/model/rollout",
    "part of a bundle": f"{ROOT}/model/0123456789abcdef/a.onnx/0",
    "something else": "anything",
    "the broker itself": "$SYS/broker/uptime",
}
STATUSES = {"own status", "pi-2's status", "edge-1's status", "cloud-1's status", "a new edge's status"}
STATUSES |= {"own claim", "pi-2's claim", "edge-1's claim", "own figures", "pi-2's figures", "edge-1's figures"}
EVERY_NODE_WRITES = {"edge request", "cloud request", "log", "own status", "own claim", "own answer"}
EVERY_NODE_WRITES |= {"own figures", "own discovery"}
BUNDLES = {"rollout", "part of a bundle", "operating point"}
SHOWN = {"own discovery", "pi-2's discovery", "edge-1's discovery"}
EVERY_NODE_READS = {"own outcome", "own input", "birth"} | STATUSES | BUNDLES
MAY_WRITE = {
    "pi-1": EVERY_NODE_WRITES,
    "edge-1": EVERY_NODE_WRITES
    | {"own outcome", "pi-2's outcome", "edge-1's status", "edge-1's claim", "a new edge's status"}
    | {"edge-1's figures", "edge-1's discovery"},
    "cloud-1": EVERY_NODE_WRITES | {"own outcome", "pi-2's outcome", "cloud-1's status"},
    "app": EVERY_NODE_WRITES | {"own input", "pi-2's input"},
    "office": EVERY_NODE_WRITES | BUNDLES | SHOWN | {"pi-2's figures", "edge-1's figures"},
    "house": EVERY_NODE_WRITES | {"birth", "operating point"},
    "bridge": EVERY_NODE_WRITES | BUNDLES | {"pi-2's status", "edge-1's status", "a new edge's status"},
}
MAY_READ = {
    "pi-1": EVERY_NODE_READS,
    "edge-1": EVERY_NODE_READS | {"edge request", "log"},
    "cloud-1": EVERY_NODE_READS | {"cloud request"},
    "app": EVERY_NODE_READS | {"own answer", "pi-2's answer"},
    "office": EVERY_NODE_READS,
    "house": EVERY_NODE_READS | SHOWN | {"another discovery"},
    "bridge": EVERY_NODE_READS | {"pi-2's outcome"},
}
READERS, WRITERS = "readers", "writers"
EVERYBODY = frozenset({"pi-1", "edge-1", "cloud-1", "app", "office", "house", "bridge"})
BY_TOPIC = {  # whose topic it is, and who may read and write it
    "log": {READERS: {"edge-1"}, WRITERS: EVERYBODY},
    "request(edge)": {READERS: {"edge-1"}, WRITERS: EVERYBODY},
    "request(cloud)": {READERS: {"cloud-1"}, WRITERS: EVERYBODY},
    "outcome(pi-1)": {READERS: {"pi-1", "bridge"}, WRITERS: {"edge-1", "cloud-1"}},
    "input(pi-1)": {READERS: {"pi-1"}, WRITERS: {"app"}},
    "answer(pi-1)": {READERS: {"app"}, WRITERS: {"pi-1"}},
    "link": {READERS: EVERYBODY, WRITERS: {"office"}},
    "operating_point": {READERS: EVERYBODY, WRITERS: {"office", "house", "bridge"}},
    "home_assistant": {READERS: EVERYBODY, WRITERS: {"house"}},
    "training(up)": {READERS: set(), WRITERS: set()},  # one topic for all: a device could read another's gradients
    "training(down)": {READERS: set(), WRITERS: set()},
    "rollout": {READERS: EVERYBODY, WRITERS: {"office", "bridge"}},
    "chunk(0a,head.onnx,0)": {READERS: EVERYBODY, WRITERS: {"office", "bridge"}},
    **{
        f"status({tier},{node})": {READERS: EVERYBODY, WRITERS: {node, *bridges}}
        for tier, node, bridges in (
            ("device", "pi-1", ["bridge"]),
            ("edge", "edge-1", ["bridge"]),
            ("cloud", "cloud-1", []),
        )
    },
    **{
        f"claim({tier},{node})": {READERS: EVERYBODY, WRITERS: {node}}
        for tier, node in (("device", "pi-1"), ("edge", "edge-1"), ("cloud", "cloud-1"))
    },
    **{
        f"figures({tier},{node})": {READERS: EVERYBODY, WRITERS: {node, "office"}}
        for tier, node in (("device", "pi-1"), ("edge", "edge-1"), ("cloud", "cloud-1"))
    },
    **{
        f"discovery({tier},{node})": {READERS: {"house"}, WRITERS: {node, "office"}}
        for tier, node in (("device", "pi-1"), ("edge", "edge-1"), ("cloud", "cloud-1"))
    },
}
READABLE_BY_ALL = f"{ROOT}/status/device/marker"


@pytest.mark.parametrize("node", MAY_WRITE)
def test_a_node_publishes_only_where_it_may(any_site: Any, node: str) -> None:
    inbox = hear_everything(any_site)
    transport = any_site.connected(node)

    for name, topic in offered(any_site, node).items():
        transport.publish(topic, f"{node}:{name}".encode())
    transport.publish(TOPICS["own answer"].format(me=node), b"end")

    heard = {payload.removeprefix(f"{node}:") for payload in until_end(inbox) if payload.startswith(f"{node}:")}
    assert heard == MAY_WRITE[node]


@pytest.mark.parametrize("node", MAY_READ)
def test_a_node_hears_only_what_it_may(any_site: Any, node: str) -> None:
    transport, inbox = any_site.transport(node), Inbox(1000)
    transport.subscribe("#", inbox)
    transport.subscribe("$SYS/#", inbox)
    with transport:
        assert transport.wait_connected(60.0)
        overseer = any_site.connected("overseer")
        for name, topic in offered(any_site, node).items():
            overseer.publish(topic, f"overseer:{name}".encode())
        overseer.publish(READABLE_BY_ALL, b"end")
        heard = set(until_end(inbox))

    assert heard == {f"overseer:{name}" for name in MAY_READ[node]}  # and nothing from $SYS


def test_retained_messages_of_others_stay_hidden_from_a_late_listener(any_site: Any) -> None:
    overseer, own = any_site.connected("overseer"), Inbox(1000)
    overseer.subscribe(READABLE_BY_ALL, own)
    for name, topic in offered(any_site, "pi-1").items():
        overseer.publish(topic, f"overseer:{name}".encode(), is_retained=True)
    overseer.publish(READABLE_BY_ALL, b"end")
    until_end(own)
    transport, inbox = any_site.transport("pi-1"), Inbox(1000)
    transport.subscribe("#", inbox)

    with transport:
        assert transport.wait_connected(60.0)
        overseer.publish(READABLE_BY_ALL, b"end")
        heard = set(until_end(inbox))

    assert heard == {f"overseer:{name}" for name in MAY_READ["pi-1"]}


def test_a_device_cannot_spoof_a_tiers_status_by_its_last_will(any_site: Any) -> None:
    inbox = hear_everything(any_site)
    forged = Presence(
        topic=TOPICS["edge-1's status"], online=lambda: b"forged", stopped=lambda: b"forged", gone=b"forged"
    )
    device = any_site.transport("pi-1", presence=forged)
    with device:
        assert device.wait_connected(60.0)
        device._link._client.socket().shutdown(2)  # without DISCONNECT the broker publishes the will
        assert wait_until(lambda: device.counters().get("losses", 0) > 0)
        assert device.wait_connected(60.0)
        device.publish(TOPICS["log"], b"end")
        heard = until_end(inbox)

    assert "forged" not in heard


def test_a_stolen_certificate_cannot_take_another_nodes_connection(any_site: Any) -> None:
    victim = any_site.connected("pi-2")

    thief = MqttTransport(any_site.settings("pi-1"), client_id="pi-2")
    with thief:
        assert thief.wait_connected(60.0)
        inbox = hear_everything(any_site)
        victim.publish(TOPICS["log"], b"end")
        until_end(inbox)

    assert victim.counters().get("losses", 0) == 0


def test_every_topic_of_the_product_is_in_the_list_for_exactly_the_right_roles(tmp_path: Path) -> None:
    """Walks what ``Topics`` offers, so that a new topic fails here until somebody says whose it is."""
    offered = {name for name in vars(Topics) if not name.startswith("_") and name not in Topics.__struct_fields__}
    nodes = {"edge-1": Role.EDGE, "cloud-1": Role.CLOUD, "app": Role.APPLICATION, "office": Role.OPERATOR}
    nodes |= {"house": Role.HOME_ASSISTANT, "bridge": Role.BRIDGE}
    (tmp_path / "acl").write_text(access_list("home", nodes.items()))
    listed = AccessList.read(tmp_path / "acl")

    assert {name.partition("(")[0] for name in BY_TOPIC} == offered
    for name, rights in BY_TOPIC.items():
        topic = _topic(name)
        assert {node for node in EVERYBODY if listed.may_hear(node, topic)} == rights[READERS], name
        assert {node for node in EVERYBODY if listed.may_publish(node, topic)} == rights[WRITERS], name


def _topic(name: str) -> str:
    method, _, arguments = name.rstrip(")").partition("(")
    found = getattr(Topics("home"), method)
    return found if isinstance(found, str) else found(*arguments.split(","))


@pytest.mark.parametrize(
    "line",
    [
        "topic read dimee/v1/home/log",  # belongs to nobody
        "user pi-1\ntopic dimee/v1/home/log",
        "user pi-1\ntopic deny dimee/v1/home/log",
        "pattern read",
        "users pi-1",
        " pattern write #",
    ],
)
def test_an_access_list_that_is_not_understood_is_refused_by_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "acl"
    path.write_text(f"# ours\n\n{line}\n")

    with pytest.raises(ConfigError, match=rf"{path}, line {2 + len(line.splitlines())}: '.*' is not understood"):
        AccessList.read(path)


def test_an_access_list_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone cannot be read"):
        AccessList.read(tmp_path / "gone")


def test_the_shipped_access_list_is_what_the_command_prints() -> None:
    shipped = Path(__file__).parents[2] / "infra" / "mosquitto" / "acl"

    assert shipped.read_text() == access_list("home", [("edge-1", Role.EDGE), ("cloud-1", Role.CLOUD)])


@pytest.mark.parametrize("site_name", ["", "a b", "home\nuser pi-1", "%u", "+", "a/b"])
def test_a_site_that_would_change_the_lists_meaning_is_refused(site_name: str) -> None:
    with pytest.raises(ConfigError, match="cannot stand in an access list"):
        access_list(site_name, [])


def offered(site: Any, node: str) -> dict[str, str]:
    """Give the topics as a node sees them; the embedded broker closes on whoever publishes to a broker's own."""
    topics = {name: topic.format(me=node) for name, topic in TOPICS.items()}
    if site.broker.name == "embedded":
        del topics["the broker itself"]
    return topics


def hear_everything(site: Any) -> Inbox:
    """Let the overseer listen to all topics."""
    inbox = Inbox(10_000)
    listener = site.transport("overseer")
    listener.subscribe("#", inbox)
    site.stack.enter_context(listener)
    assert listener.wait_connected(60.0)
    return inbox


def until_end(inbox: Inbox) -> list[str]:
    """Give the payloads that came before ``end``; one connection's messages arrive in order."""
    heard = []
    while (delivery := inbox.get(60.0)) is not None:
        if delivery.payload == b"end":
            return heard
        heard.append(delivery.payload.decode())
    pytest.fail(f"the end did not come within 60 s, only {heard}")


def wait_until(condition: Callable[[], bool], limit_s: float = 60.0) -> bool:
    """Look until a condition holds."""
    deadline = time.monotonic() + limit_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()
