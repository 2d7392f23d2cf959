"""A process tells what happened and whether it is well; over HTTP and to systemd, and to nobody unless asked."""

import json
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from brokers import free_port
from tiers import running
from tiny import sentences

import cloud_worker.build
import edge_broker.build
from common.config.settings import (
    CloudSettings,
    DeviceLimits,
    DeviceSettings,
    EdgeLog,
    EdgeSettings,
    Metrics,
    Model,
    Node,
    Routing,
)
from common.errors import ConfigError
from common.model.bundle import open_bundle
from common.service.lifecycle import Stopping
from common.service.telemetry.server import TelemetryServer
from common.service.telemetry.systemd import Notifier
from common.service.telemetry.telemetry import Telemetry
from common.service.telemetry.vitals import NoMeter, Vitals
from common.types import Answer, Hop, Reason, Tier
from device_agent.build import start_agent

prometheus = pytest.importorskip("common.service.telemetry.prometheus", reason="pip install 'dimee[metrics]'")
parser = pytest.importorskip("prometheus_client.parser")
LIMIT_S = 60.0


class Fetched(NamedTuple):
    status: int
    body: str


def fetch(port: int, path: str) -> Fetched:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=LIMIT_S) as reply:
            return Fetched(reply.status, reply.read().decode())
    except urllib.error.HTTPError as exc:
        return Fetched(exc.code, exc.read().decode())


def scrape(port: int) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = parser.text_string_to_metric_families(fetch(port, "/metrics").body)
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def vitals(**fields: Any) -> Vitals:
    return Vitals(tier=Tier.EDGE, node="edge-1", model_revision="abc", exit_layers=frozenset({1, 2, 3}), **fields)


def answer(**fields: Any) -> Answer:
    known = {
        "request_id": "r",
        "device_id": "pi-1",
        "model_revision": "abc",
        "reason": Reason.CONFIDENT,
        "label": "x",
        "confidence": 0.9,
        "exit_layer": 2,
        "exit_tier": Tier.EDGE,
        "entry_tier": Tier.DEVICE,
        "total_ms": 12.0,
        "payload_bytes": 900,
        "cost": 4.5,
        "hops": (Hop(tier=Tier.EDGE, node="edge-1", start=0, end=2, queue_ms=1.0, compute_ms=3.0),),
    }
    return Answer(**(known | fields))


def wait_ready(port: int) -> None:
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        try:
            if fetch(port, "/readyz").status == 200:
                return
        except OSError:
            time.sleep(0.05)  # nothing tells when a server begins to listen
    pytest.fail(f"not ready within {LIMIT_S} s")


@pytest.mark.broker
def test_every_tier_counts_what_passes_through_it(mosquitto: Any, tiny_bundle: Path, tmp_path: Path) -> None:
    mqtt, model, routing = mosquitto.settings(), Model(bundle=str(tiny_bundle)), Routing(policy="edge-only")
    ports = {tier: free_port() for tier in Tier}
    log = EdgeLog(url=f"sqlite:///{tmp_path / 'log.sqlite'}")
    edge = EdgeSettings(
        node=Node(id="edge-1"), mqtt=mqtt, routing=routing, model=model, log=log, metrics=Metrics(port=ports[Tier.EDGE])
    )
    cloud = CloudSettings(
        node=Node(id="cloud-1"), mqtt=mqtt, routing=routing, model=model, metrics=Metrics(port=ports[Tier.CLOUD])
    )
    device = DeviceSettings(
        node=Node(id="pi-1"),
        mqtt=mqtt,
        routing=routing,
        model=model,
        metrics=Metrics(port=ports[Tier.DEVICE]),
        device=DeviceLimits(budget_ms=LIMIT_S * 1000, retry_ms=LIMIT_S * 1000),
    )
    with running(edge_broker.build, edge), running(cloud_worker.build, cloud):
        wait_ready(ports[Tier.EDGE])
        wait_ready(ports[Tier.CLOUD])
        with start_agent(device, Stopping()) as agent:
            wait_ready(ports[Tier.DEVICE])
            answers = [agent.classify(text) for text, _ in sentences(30, seed=5)]
            told = {tier: scrape(port) for tier, port in ports.items()}

    settled = {key: value for key, value in told[Tier.DEVICE].items() if key[0] == "dimee_answers_total"}
    assert sum(settled.values()) == len(answers)
    assert told[Tier.DEVICE]["dimee_answer_seconds_count", (("part", "total"),)] == len(answers)
    assert told[Tier.DEVICE]["dimee_payload_bytes_total", ()] == sum(each.payload_bytes for each in answers)
    hops = [hop for each in answers for hop in each.hops]
    assert {hop.tier for hop in hops} == {Tier.EDGE}
    for tier in (Tier.EDGE, Tier.CLOUD):
        count = told[tier]["dimee_hop_seconds_count", (("part", "compute"),)]
        assert count == sum(hop.tier is tier for hop in hops)
        assert told[tier]["dimee_ready", ()] == 1
    assert ("dimee_level", (("gauge", "outbox_messages"), ("part", "transport"))) in told[Tier.EDGE]


def test_metrics_names_and_labels_follow_prometheus_rules(tiny_bundle: Path) -> None:
    port = free_port()
    telemetry = Telemetry(Metrics(port=port), Tier.EDGE, "edge-1", open_bundle(tiny_bundle).manifest)
    telemetry.watch("inference", counters=lambda: {"received": 3}, gauges=lambda: {"inbox_messages": 2.0})
    telemetry.meter.answer(answer())

    with telemetry:
        families = list(parser.text_string_to_metric_families(fetch(port, "/metrics").body))

    ours = [family for family in families if family.name.startswith("dimee_")]
    assert len(ours) >= 10
    for family in ours:
        assert re.fullmatch(r"[a-z_]+", family.name)
        assert family.documentation
        assert not family.name.endswith(("_ms", "_count", "_total"))


def test_a_peers_invention_adds_no_series() -> None:
    meter = prometheus.PrometheusMeter(frozenset({1, 2, 3}))
    page = prometheus.Exposition(vitals(), meter.registry)

    for layer in range(1000):
        meter.answer(answer(exit_layer=layer))

    lines = [line for line in page.text().decode().splitlines() if line.startswith("dimee_answers_total{")]
    assert len(lines) == 5  # layers 0 to 3, and other


def test_nothing_listens_unless_asked(tiny_bundle: Path) -> None:
    telemetry = Telemetry(Metrics(), Tier.CLOUD, "cloud-1", open_bundle(tiny_bundle).manifest)

    with telemetry:
        names = {thread.name for thread in threading.enumerate()}

    assert isinstance(telemetry.meter, NoMeter)
    assert not names & {"telemetry", "systemd-notify"}


def test_an_address_in_use_is_named(tiny_bundle: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = Metrics(port=taken.getsockname()[1])
        telemetry = Telemetry(settings, Tier.CLOUD, "cloud-1", open_bundle(tiny_bundle).manifest)

        with pytest.raises(ConfigError, match=r"metrics\.port \d+: cannot listen"), telemetry:
            pass


@pytest.fixture
def served() -> Iterator[tuple[Vitals, int]]:
    found = vitals()
    with TelemetryServer(
        "127.0.0.1", 0, found, prometheus.Exposition(found, prometheus.PrometheusMeter(frozenset()).registry)
    ) as server:
        yield found, server.port


def test_ready_means_connected_and_healthy_means_not_hung(served: tuple[Vitals, int]) -> None:
    found, port = served
    busy_s = {"inference": 0.0}
    found.busy_s["inference"] = lambda: busy_s["inference"]

    before = (fetch(port, "/readyz").status, fetch(port, "/healthz").status)
    found.is_connected = lambda: True
    busy_s["inference"] = 61.0
    after = (fetch(port, "/readyz").status, fetch(port, "/healthz"))

    assert before == (503, 200)
    assert (after[0], after[1].status) == (200, 503)
    assert json.loads(after[1].body) == {"ok": False, "hung_threads": ["inference"]}


@pytest.mark.parametrize("path", ["/", "/metricsx", "/../etc/passwd", "//", "/healthz/"])
def test_other_paths_are_not_found(served: tuple[Vitals, int], path: str) -> None:
    assert fetch(served[1], path).status == 404


@pytest.mark.parametrize(
    "request_bytes", [b"POST /metrics HTTP/1.0\r\n\r\n", b"\x00\xff\r\n\r\n", b"GET " + b"a" * 70_000 + b"\r\n\r\n"]
)
def test_strange_requests_do_no_harm(served: tuple[Vitals, int], request_bytes: bytes) -> None:
    port = served[1]
    with socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S) as client:
        client.sendall(request_bytes)
        client.shutdown(socket.SHUT_WR)
        try:
            while client.recv(4096):
                pass
        except ConnectionResetError:
            pass

    assert fetch(port, "/healthz").status == 200


def test_silent_clients_cannot_shut_others_out_for_long(served: tuple[Vitals, int]) -> None:
    port = served[1]
    silent = [socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S) for _ in range(40)]
    deadline = time.monotonic() + LIMIT_S

    while True:
        try:
            if fetch(port, "/healthz").status == 200:
                break
        except OSError:
            assert time.monotonic() < deadline

    for client in silent:
        client.close()


class Systemd:
    """The other end of NOTIFY_SOCKET."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(LIMIT_S)

    def next(self) -> dict[str, str]:
        text = self.socket.recv(4096).decode()
        return dict(line.split("=", 1) for line in text.splitlines())


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    found = Systemd(tmp_path / "notify")
    yield found
    found.socket.close()


def test_systemd_is_told_of_start_heartbeat_and_stop(systemd: Systemd) -> None:
    environment = {"NOTIFY_SOCKET": str(systemd.path), "WATCHDOG_USEC": "150000"}
    with Notifier(vitals(), environment):
        ready, beat = systemd.next(), systemd.next()
    rest = [systemd.next()]
    while "STOPPING" not in rest[-1]:
        rest.append(systemd.next())

    assert ready["READY"] == "1"
    assert (beat["WATCHDOG"], beat["STATUS"]) == ("1", "edge edge-1: no broker, revision abc")


def test_a_hung_thread_stops_the_heartbeat(systemd: Systemd) -> None:
    environment = {"NOTIFY_SOCKET": str(systemd.path), "WATCHDOG_USEC": "150000"}
    with Notifier(vitals(busy_s={"inference": lambda: 1e9}), environment):
        first, second = systemd.next(), systemd.next()

    assert "READY" in first
    assert second == {"STATUS": "hung: inference"}


def test_without_systemd_nothing_is_sent_and_no_thread_runs() -> None:
    with Notifier(vitals(), {}):
        assert "systemd-notify" not in {thread.name for thread in threading.enumerate()}


def test_a_vanished_systemd_does_no_harm(tmp_path: Path) -> None:
    with Notifier(vitals(), {"NOTIFY_SOCKET": str(tmp_path / "none"), "WATCHDOG_USEC": "30000"}):
        time.sleep(0.05)
