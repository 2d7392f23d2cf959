"""The doctor names what is wrong, in one line with its remedy, against real brokers, and touches nothing."""

import os
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tiers import running

import cloud_worker.build
import edge_broker.build
from common.commands import broker_checks, machine_checks
from common.commands.broker_checks import judge_delay, largest_activation_bytes
from common.commands.doctor import examine
from common.commands.finding import Finding
from common.commands.peer_checks import check_peers, check_update
from common.config.settings import (
    Channel,
    CloudSettings,
    DeviceSettings,
    EdgeLog,
    EdgeSettings,
    EmbeddedBroker,
    Model,
    Mqtt,
    Node,
    Outbox,
)
from common.model.bundle import open_bundle
from common.transport.contract import Inbox, Presence
from common.types import NodeStatus, Tier
from common.wire.documents import encode_document

LIMIT_S = 60.0


def device(mqtt: Mqtt, bundle: Path) -> DeviceSettings:
    return DeviceSettings(node=Node(id="pi-1"), mqtt=mqtt, model=Model(bundle=str(bundle)))


def edge(mqtt: Mqtt, bundle: Path, folder: Path) -> EdgeSettings:
    log = EdgeLog(url=f"sqlite:///{folder / 'log.sqlite'}")
    return EdgeSettings(node=Node(id="edge-1"), mqtt=mqtt, model=Model(bundle=str(bundle)), log=log)


def cloud(mqtt: Mqtt, bundle: Path) -> CloudSettings:
    return CloudSettings(node=Node(id="cloud-1"), mqtt=mqtt, model=Model(bundle=str(bundle)))


def of(findings: list[Finding], check: str) -> list[Finding]:
    return [finding for finding in findings if finding.check == check]


def one(findings: list[Finding], check: str) -> Finding:
    (found,) = of(findings, check)
    return found


def wait_online(broker: Any, count: int) -> None:
    inbox, online = Inbox(64), set()
    with broker.transport("watch") as transport:
        transport.subscribe("dimee/v1/home/status/+/+", inbox)
        deadline = time.monotonic() + LIMIT_S
        while len(online) < count and time.monotonic() < deadline:
            delivery = inbox.get(timeout=0.2)
            if delivery is not None and b'"online"' in delivery.payload:
                online.add(delivery.topic)
    assert len(online) == count


@pytest.mark.broker
def test_a_running_site_is_well_from_every_tiers_view(
    mosquitto: Any, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_checks, "_REPLY_LIMIT_S", LIMIT_S)
    mqtt = mosquitto.settings()
    with ExitStack() as stack:
        stack.enter_context(running(edge_broker.build, edge(mqtt, tiny_bundle, tmp_path)))
        stack.enter_context(running(cloud_worker.build, cloud(mqtt, tiny_bundle)))
        wait_online(mosquitto, 2)

        views = [
            list(examine(device(mqtt, tiny_bundle), Tier.DEVICE)),
            list(examine(edge(mqtt, tiny_bundle, tmp_path), Tier.EDGE)),
            list(examine(cloud(mqtt, tiny_bundle), Tier.CLOUD)),
        ]

    for findings in views:
        assert [found for found in findings if found.state == "failed"] == []
    assert one(views[0], "edge replies").state == "ok"
    assert [found.detail.split(",")[0] for found in of(views[0], "peer")] == [
        "edge 'edge-1' is online",
        "cloud 'cloud-1' is online",
    ]


@pytest.mark.broker
def test_denied_topics_are_named_one_by_one(
    make_mosquitto: Callable[..., Any], tiny_bundle: Path, tmp_path: Path
) -> None:
    acl = tmp_path / "acl"
    acl.write_text("topic readwrite dimee/v1/home/status/#\ntopic write dimee/v1/home/edge/request\n")
    with make_mosquitto("allow_anonymous true", f"acl_file {acl}") as broker:
        findings = list(examine(device(broker.settings(), tiny_bundle), Tier.DEVICE))

    denied = {found.detail.split(":")[0] for found in of(findings, "may write") if found.state == "failed"}
    assert denied == {
        "dimee/v1/home/cloud/request",
        "dimee/v1/home/log",
        "dimee/v1/home/device/pi-1/answer",
    }


@pytest.mark.broker
@pytest.mark.parametrize(("line", "state"), [("set_tcp_nodelay true", "ok"), ("set_tcp_nodelay false", "failed")])
def test_a_broker_that_waits_for_delayed_acknowledgements_is_found(
    line: str, state: str, make_mosquitto: Callable[..., Any], tiny_bundle: Path
) -> None:
    stopped = make_mosquitto()
    stopped._config.write_text(stopped._config.read_text().replace("set_tcp_nodelay true", line))
    with stopped as broker:
        findings = list(examine(device(broker.settings(), tiny_bundle), Tier.DEVICE))

    assert one(findings, "no delay").state == state, one(findings, "no delay")


@pytest.mark.broker
def test_a_packet_limit_below_the_largest_activation_is_found(
    make_mosquitto: Callable[..., Any], tiny_bundle: Path
) -> None:
    largest = largest_activation_bytes(open_bundle(tiny_bundle).manifest, "int8")
    with make_mosquitto("allow_anonymous true", f"max_packet_size {largest}") as broker:
        found = one(list(examine(device(broker.settings(), tiny_bundle), Tier.DEVICE)), "packet size")

    assert (found.state, str(largest) in found.detail.replace(",", "")) == ("failed", True)


@pytest.mark.broker
def test_a_wrong_password_is_named(make_mosquitto: Callable[..., Any], tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "users").write_text("")
    with make_mosquitto("allow_anonymous false", f"password_file {tmp_path / 'users'}") as broker:
        findings = list(examine(device(broker.settings(), tiny_bundle), Tier.DEVICE))

    found = one(findings, "login")
    assert (found.state, of(findings, "may write")) == ("failed", [])
    assert "ot authori" in found.detail


def test_the_embedded_broker_is_well_but_for_shared_subscriptions(embedded_broker: Any, tiny_bundle: Path) -> None:
    findings = list(examine(device(embedded_broker.settings(), tiny_bundle), Tier.DEVICE))

    assert one(findings, "shared subscriptions").state == "warning"
    assert {found.state for found in of(findings, "may write")} == {"ok"}
    assert "MQTT 3.1.1" in one(findings, "login").detail


def test_a_broker_out_of_reach_ends_the_questions(tiny_bundle: Path) -> None:
    findings = list(examine(device(Mqtt(port=1), tiny_bundle), Tier.DEVICE))

    assert one(findings, "broker").state == "failed"
    assert findings[-1].state == "skipped"


@pytest.mark.broker
def test_a_node_that_vanished_is_named(mosquitto: Any) -> None:
    online = NodeStatus(state="online", tier=Tier.EDGE, node="edge-1")
    presence = Presence(
        topic="dimee/v1/home/status/edge/edge-1",
        online=lambda: encode_document(online),
        stopped=lambda: b"",
        gone=encode_document(online.gone()),
    )
    inbox = Inbox(64)
    with mosquitto.transport("watch") as watch, mosquitto.transport("edge-1", presence=presence) as transport:
        watch.subscribe("dimee/v1/home/status/+/+", inbox)
        assert transport.wait_connected(LIMIT_S)
        mosquitto.vanish(transport)
        while (delivery := inbox.get(timeout=LIMIT_S)) is not None and b'"offline"' not in delivery.payload:
            pass
        assert delivery is not None

        named = [
            found
            for found in check_peers(Tier.DEVICE, [msgspec.json.decode(delivery.payload, type=NodeStatus)], ())
            if "edge-1" in found.detail
        ]

    assert named[0].state == "failed"


def test_peers_are_judged_by_state_and_revision() -> None:
    def status(state: Any, tier: Tier, node: str, revision: str = "abc") -> NodeStatus:
        return NodeStatus(state=state, tier=tier, node=node, model_revision=revision)

    peers = [
        status("online", Tier.EDGE, "edge-1"),
        status("online", Tier.EDGE, "edge-2", "other"),
        status("stopped", Tier.CLOUD, "cloud-1"),
        status("offline", Tier.DEVICE, "pi-2", ""),
        status("stopped", Tier.DEVICE, "pi-1-ask"),
    ]

    found = {finding.detail: finding.state for finding in check_peers(Tier.DEVICE, peers, ("abc",))}

    assert found == {
        "device 'pi-2' vanished without a word": "failed",
        "edge 'edge-1' is online, revision abc": "ok",
        "edge 'edge-2' serves revision other, this node abc": "failed",
        "cloud 'cloud-1' was stopped": "warning",
        "no cloud is online at this site": "failed",
    }


def test_an_edge_that_serves_both_revisions_fits_every_device() -> None:
    edge = NodeStatus(state="online", tier=Tier.EDGE, node="edge-1", model_revision="new", revisions=("new", "old"))
    canary = NodeStatus(state="online", tier=Tier.DEVICE, node="pi-2", model_revision="new")
    cloud = NodeStatus(state="online", tier=Tier.CLOUD, node="cloud-1", model_revision="old")

    of_device = [found.state for found in check_peers(Tier.DEVICE, [edge, canary, cloud], ("old",))]
    of_cloud = [found.state for found in check_peers(Tier.CLOUD, [edge, canary], ("older",))]

    assert of_device == ["ok", "ok", "ok"]
    assert of_cloud == ["failed", "failed"]


@pytest.mark.parametrize(
    ("update", "state"),
    [("on trial: abc", "ok"), ("refused abc: exits drifted", "warning"), ("stuck: disk", "warning"), ("", None)],
)
def test_an_update_of_this_node_is_told(update: str, state: str | None) -> None:
    own = NodeStatus(state="online", tier=Tier.DEVICE, node="pi-1", update=update)

    assert [found.state for found in check_update(own)] == ([] if state is None else [state])


def test_a_long_link_is_not_taken_for_nagle() -> None:
    assert [judge_delay(0.3, 44).state, judge_delay(80, 2).state, judge_delay(1, 0.8).state] == ["failed", "ok", "ok"]


def test_an_altered_bundle_is_found(tiny_bundle: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    (copy / "embedding.onnx").write_bytes(b"x")

    found, bundle = machine_checks.check_bundle(str(copy))

    assert (found.state, bundle) == ("failed", None)
    assert "embedding.onnx" in found.detail


def test_a_folder_that_cannot_take_the_log_is_found(tmp_path: Path) -> None:
    settings = EdgeSettings(node=Node(id="e"), log=EdgeLog(url=f"sqlite:///{tmp_path / 'none' / 'log.sqlite'}"))

    (found,) = machine_checks.check_database(settings)

    assert found.state == "failed"
    assert not (tmp_path / "none").exists()


def test_an_outbox_that_cannot_be_written_is_found(tmp_path: Path) -> None:
    settings = DeviceSettings(node=Node(id="d"), outbox=Outbox(path=str(tmp_path / "none" / "outbox.sqlite")))

    (found,) = machine_checks.check_outbox(settings)

    assert (found.state, list(machine_checks.check_outbox(DeviceSettings(node=Node(id="d"))))) == ("failed", [])


def test_a_sealed_channel_without_its_keys_is_found() -> None:
    settings = CloudSettings(node=Node(id="c"), channel=Channel(name="sealed"))

    (found,) = machine_checks.check_channel(settings, Tier.CLOUD)

    assert found.state == "failed"
    assert "channel.tier_key_folder is missing" in found.detail


def test_a_file_that_is_no_log_is_found(tmp_path: Path) -> None:
    (tmp_path / "log.sqlite").write_bytes(b"not a database" * 100)

    (found,) = machine_checks.check_database(
        EdgeSettings(node=Node(id="e"), log=EdgeLog(url=f"sqlite:///{tmp_path / 'log.sqlite'}"))
    )

    assert found.state == "failed"


def test_packages_of_an_extra_count_only_where_it_is_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_checks, "requires", lambda _: ["numpy>=1", 'no-such-package>=3 ; extra == "edge"'])
    plain = EdgeSettings(node=Node(id="e"))
    brings_broker = EdgeSettings(node=Node(id="e"), broker=EmbeddedBroker(is_enabled=True))

    found = [machine_checks.check_packages(plain), machine_checks.check_packages(brings_broker)]

    assert [finding.state for finding in found] == ["ok", "failed"]
    assert "no-such-package>=3" in found[1].detail
    assert "dimee[edge]" in found[1].remedy


@pytest.mark.parametrize(
    ("limit", "state"), [("_LEAST_FREE_BYTES", "failed"), ("_AMPLE_FREE_BYTES", "warning"), (None, "ok")]
)
def test_a_disk_that_is_full_or_soon_will_be_is_found(
    limit: str | None, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine_checks, "_LEAST_FREE_BYTES", 0)
    monkeypatch.setattr(machine_checks, "_AMPLE_FREE_BYTES", 0)
    if limit is not None:
        monkeypatch.setattr(machine_checks, limit, 2**62)

    found = machine_checks.check_disk(EdgeSettings(node=Node(id="edge-1")))

    assert (found.state, "GiB free" in found.detail) == (state, True)


def test_an_older_python_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine_checks.check_python().state == "ok"
    monkeypatch.setattr("platform.python_version", lambda: "3.10.9")

    found = machine_checks.check_python()

    assert (found.state, found.detail) == ("failed", "3.10.9 is older than 3.11")


def test_a_clock_before_the_installation_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1000.0)

    assert machine_checks.check_clock().state == "failed"


def test_the_command_tells_by_its_status_and_lists_json(
    dimee: Callable[..., Any], tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("DIMEE_")]:
        monkeypatch.delenv(name)
    path = tmp_path / "cloud.toml"
    dimee("init", "cloud", "--yes", "--port", "1", "--bundle", tiny_bundle, "--out", path)

    listed = dimee("doctor", "--config", path, "--json")
    said = dimee("doctor", "--config", path)

    assert (listed.status, said.status) == (1, 1)
    assert {"check", "state", "detail", "remedy"} == set(listed.document[0])
    assert len(said.out.splitlines()) == len(listed.document)
    (line,) = [line for line in said.out.splitlines() if line.startswith("failed")]
    assert "start the broker" in line
