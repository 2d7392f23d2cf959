"""A node in Home Assistant: what it publishes fits the published schema, and what is chosen there takes effect.

Home Assistant itself is too large a dependency: the schema is transcribed from its source, its templates run in Jinja2.
"""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import jinja2
import pytest
from brokers import NetworkBroker
from jsonschema import Draft202012Validator, ValidationError

from common.config.settings import DeviceLog, DeviceSettings, HomeAssistant, Metrics, Model, Mqtt, Node
from common.errors import ConfigError
from common.model.bundle import Bundle, open_bundle
from common.routing.operating_point import OperatingPoint, decode_point, encode_point
from common.service.home_assistant.discovery import check_names, discovery_document
from common.service.home_assistant.showing import open_showing
from common.service.lifecycle import Stopping
from common.service.presence import Standing, presence
from common.service.steering import OperatingPoints
from common.service.telemetry.telemetry import Telemetry
from common.transport.contract import Inbox
from common.types import TIERS, NodeStatus, Tier
from common.wire.documents import Figures, encode_document
from common.wire.topics import Topics
from device_agent.build import start_agent

LIMIT_S = 60.0
TEXT = "the film with a scene and music"
TOPICS = Topics("home")
SCHEMA = Draft202012Validator(json.loads((Path(__file__).parent / "home_assistant.schema.json").read_text("utf-8")))
POLICIES = ("confidence-cascade", 'a "quoted" one')
DOCUMENT, FIGURES = TOPICS.discovery("device", "pi-1"), TOPICS.figures("device", "pi-1")


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return open_bundle(tiny_bundle)


def document(tier: Tier = Tier.DEVICE, policies: tuple[str, ...] = POLICIES) -> dict[str, Any]:
    found = discovery_document(tier, "pi-1", TOPICS, revision="0123456789abcdef", policies=policies)
    return json.loads(encode_document(found))


def rendered(template: str, **values: Any) -> str:
    """Render as Home Assistant does: its filter ``to_json``, and whatever is undefined is an error."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)
    environment.filters["to_json"] = json.dumps
    return environment.from_string(template).render(**values)


@pytest.mark.parametrize("policies", [POLICIES, ()])
@pytest.mark.parametrize("tier", TIERS)
def test_the_document_follows_home_assistants_schema(tier: Tier, policies: tuple[str, ...]) -> None:
    found = document(tier, policies)

    SCHEMA.validate(found)
    expected = {"status", "exit_share", "latency", "queue"} | ({"operating_point"} if policies else set())
    assert set(found["components"]) == expected
    unique = [component["unique_id"] for component in found["components"].values()]
    assert len(set(unique)) == len(unique)


@pytest.mark.parametrize(
    ("component", "key", "value"),
    [("queue", "unit_of_measurment", "x"), ("latency", "unit_of_measurement", "msec"), ("status", "platform", "light")],
)
def test_a_mistake_in_the_document_would_be_found(component: str, key: str, value: str) -> None:
    broken = document()
    broken["components"][component][key] = value

    with pytest.raises(ValidationError):
        SCHEMA.validate(broken)


@pytest.mark.parametrize("state", ["online", "stopped", "offline"])
def test_status_and_availability_follow_the_nodes_status(state: Any) -> None:
    said = json.loads(encode_document(NodeStatus(state=state, tier=Tier.DEVICE, node="pi-1")))
    components = document()["components"]

    connected = rendered(components["status"]["value_template"], value_json=said)
    (availability,) = components["queue"]["availability"]
    available = rendered(availability["value_template"], value_json=said)

    assert (connected, available) == (("ON", "online") if state == "online" else ("OFF", "offline"))
    assert components["status"]["state_topic"] == availability["topic"] == TOPICS.status("device", "pi-1")


def test_figures_are_shown_in_their_units_and_as_unknown_where_there_are_none() -> None:
    full = Figures(revision="a", exit_share=0.6468, latency_ms=1.2345, queue=3, operating_point="device-only")
    components = document()["components"]

    shown = {
        key: [
            rendered(component["value_template"], value_json=json.loads(encode_document(figures))) for figures in both
        ]
        for both in [(full, Figures(revision="a"))]
        for key, component in components.items()
        if key != "status"
    }

    assert shown == {
        "exit_share": ["64.7", "None"],
        "latency": ["1.2", "None"],
        "queue": ["3", "0"],
        "operating_point": ["device-only", "None"],
    }


@pytest.mark.parametrize("policy", POLICIES)
def test_an_option_becomes_an_operating_point_of_the_revision(policy: str) -> None:
    select = document()["components"]["operating_point"]

    point = decode_point(rendered(select["command_template"], value=policy).encode())

    assert point == OperatingPoint(revision="0123456789abcdef", policy=policy)
    assert rendered(select["command_template"], value="own") == ""
    assert select["options"] == ["own", *POLICIES]
    assert (select["command_topic"], select["retain"]) == (TOPICS.operating_point, True)


@pytest.mark.parametrize(("site", "node"), [("home", "pi.1"), ("home", "küche"), ("my site", "pi-1")])
def test_a_name_that_home_assistant_takes_for_no_topic_is_refused(site: str, node: str) -> None:
    with pytest.raises(ConfigError, match=r"home_assistant.is_enabled: Home Assistant takes no (node.id|mqtt.site)"):
        check_names(site, node)


class Node1:
    """The device pi-1 as far as Home Assistant sees it."""

    def __init__(self, medium: Any, bundle: Bundle, *, is_enabled: bool = True) -> None:
        self.standing = Standing(revision=bundle.revision)
        self.points = OperatingPoints()
        self.policy = self.points.steer(bundle, "confidence-cascade")
        status = presence(Tier.DEVICE, "pi-1", TOPICS, self.standing)
        self.transport = medium.transport("pi-1", presence=status)
        self.transport.subscribe(TOPICS.operating_point, self.points)
        settings = DeviceSettings(
            node=Node(id="pi-1"),
            mqtt=Mqtt(site="home"),
            home_assistant=HomeAssistant(is_enabled=is_enabled, every_s=0.2),
        )
        self.showing = open_showing(
            settings,
            Tier.DEVICE,
            self.transport,
            standing=self.standing,
            telemetry=Telemetry(Metrics(), Tier.DEVICE, "pi-1", bundle.manifest),
            points=self.points,
        )

    def __enter__(self) -> Self:
        self.transport.__enter__()
        self.showing.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.showing.__exit__(None, None, None)
        self.transport.__exit__(None, None, None)


class House:
    """Home Assistant, as far as a node sees it."""

    def __init__(self, medium: Any, *, client_id: str = "house") -> None:
        self.transport = medium.transport(client_id)
        self.documents, self.figures = Inbox(10_000), Inbox(10_000)
        self.transport.subscribe(DOCUMENT, self.documents)
        self.transport.subscribe(FIGURES, self.figures)

    def next_document(self) -> dict[str, Any]:
        delivery = self.documents.get(LIMIT_S)
        assert delivery is not None, "no discovery document came"
        return dict(json.loads(delivery.payload))

    def wait_figures(self, is_wanted: Callable[[dict[str, Any]], bool]) -> None:
        while (delivery := self.figures.get(LIMIT_S)) is not None:
            if is_wanted(json.loads(delivery.payload)):
                return
        raise AssertionError("no such figures came")

    def choose(self, option: str) -> None:
        select = self.next_document()["components"]["operating_point"]
        assert option in select["options"]
        payload = rendered(select["command_template"], value=option).encode()
        self.transport.publish(select["command_topic"], payload, is_retained=select["retain"])


def test_a_node_shows_itself_and_again_at_a_birth_and_at_a_new_connection(medium: Any, bundle: Bundle) -> None:
    house = House(medium)
    with house.transport, Node1(medium, bundle) as node:
        assert node.transport.wait_connected(LIMIT_S)
        SCHEMA.validate(house.next_document())
        house.wait_figures(lambda figures: figures["revision"] == bundle.revision)
        house.transport.publish(TOPICS.home_assistant, b"online")
        house.next_document()
        medium.vanish(node.transport) if medium.name != "loopback" else medium.stop() or medium.start()
        SCHEMA.validate(house.next_document())


def test_a_new_bundle_brings_a_document_with_its_policies(medium: Any, bundle: Bundle) -> None:
    house = House(medium)
    with house.transport, Node1(medium, bundle) as node:
        before = house.next_document()
        node.standing.revision = "0123456789abcdef"  # no model of it follows the points
        after = house.next_document()

    assert before["components"]["operating_point"]["options"] == ["own", *node.policy.policies]
    assert "operating_point" not in after["components"]


def test_what_is_chosen_takes_effect_and_is_shown(medium: Any, bundle: Bundle) -> None:
    house = House(medium)
    with house.transport, Node1(medium, bundle) as node:
        house.choose("device-only")
        house.wait_figures(lambda figures: figures["operating_point"] == "device-only")
        assert not node.policy.is_selective
        house.transport.publish(TOPICS.home_assistant, b"online")
        house.choose("own")
        house.wait_figures(lambda figures: figures["operating_point"] == "own")
        assert node.policy.is_selective


@pytest.mark.parametrize(
    ("unfit", "said"),
    [
        ({"revision": "0123456789abcdef"}, "operating point for revision 0123456789abcdef"),
        ({"policy": "moon"}, "operating point names policy 'moon'"),
    ],
)
def test_a_choice_that_does_not_fit_is_refused_and_logged(
    medium: Any, bundle: Bundle, unfit: dict[str, str], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    house = House(medium)
    with house.transport, Node1(medium, bundle) as node:
        house.choose("device-only")
        house.wait_figures(lambda figures: figures["operating_point"] == "device-only")
        came = threading.Event()
        told, node.points.on_point = node.points.on_point, lambda: (told(), came.set())[0]
        point = OperatingPoint(**{"revision": bundle.revision, "policy": "device-only", **unfit})
        house.transport.publish(TOPICS.operating_point, encode_point(point), is_retained=True)
        assert came.wait(LIMIT_S)

    assert node.points.refused == 1
    assert node.policy.point == OperatingPoint(revision=bundle.revision, policy="device-only")
    assert said in caplog.text


def test_thresholds_of_an_operators_own_are_shown_as_unknown(medium: Any, bundle: Bundle) -> None:
    house = House(medium)
    with house.transport, Node1(medium, bundle):
        house.next_document()
        point = OperatingPoint(revision=bundle.revision, policy="confidence-cascade", thresholds={1: 0.51})
        house.transport.publish(TOPICS.operating_point, encode_point(point), is_retained=True)
        house.wait_figures(lambda figures: figures["operating_point"] is None)


def test_a_node_that_is_switched_off_vanishes_and_one_never_shown_says_nothing(medium: Any, bundle: Bundle) -> None:
    house = House(medium)
    with house.transport:
        with Node1(medium, bundle):
            house.next_document()
            house.wait_figures(lambda _: True)
        with Node1(medium, bundle, is_enabled=False):
            cleared = house.documents.get(LIMIT_S)
            while (figures := house.figures.get(LIMIT_S)) is not None and figures.payload:
                pass  # those of the time before
        with Node1(medium, bundle, is_enabled=False) as node:
            assert node.transport.wait_connected(LIMIT_S)

    assert cleared is not None
    assert cleared.payload == b""
    assert figures is not None
    assert house.documents.get(0) is None


def test_a_running_device_shows_what_it_does(any_broker: NetworkBroker, bundle: Bundle) -> None:
    house = House(any_broker)
    settings = DeviceSettings(
        node=Node(id="pi-1"),
        mqtt=any_broker.settings(site="home"),
        model=Model(bundle=str(bundle.directory)),
        log=DeviceLog(drain_s=0.1),  # nobody records
        home_assistant=HomeAssistant(is_enabled=True, every_s=0.1),
    )
    with house.transport, start_agent(settings, Stopping()) as agent:
        assert agent.transport.wait_connected(LIMIT_S)
        house.choose("device-only")
        house.wait_figures(lambda figures: figures["operating_point"] == "device-only")
        answer = agent.classify(TEXT)
        house.wait_figures(lambda figures: (figures["exit_share"], figures["latency_ms"]) == (1.0, answer.total_ms))
