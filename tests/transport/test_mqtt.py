"""What only a real broker can show: refusals, limits, versions, and two processes with one id."""

import itertools
import queue
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from common.config.settings import Mqtt
from common.errors import ConfigError, DimeeError, TransportError
from common.transport.contract import Inbox, Presence
from common.transport.mqtt import MqttTransport

LIMIT_S = 60.0
WAY_PAST_SETTLING_S = 3600.0


def payload_of(inbox: Inbox) -> bytes:
    delivery = inbox.get(LIMIT_S)
    assert delivery is not None, "nothing came"
    return delivery.payload


def make_password_file(folder: Path) -> Path:
    path = folder / "users"
    subprocess.run(["mosquitto_passwd", "-c", "-b", str(path), "pi", "right"], check=True)
    return path


@pytest.mark.broker
def test_a_refused_login_is_fatal_and_names_user_and_broker(make_mosquitto: Callable[..., Any], tmp_path: Path) -> None:
    users = make_password_file(tmp_path)
    secret = tmp_path / "secret"
    secret.write_text("wrong\n")
    failures: queue.SimpleQueue[DimeeError] = queue.SimpleQueue()

    with make_mosquitto("allow_anonymous false", f"password_file {users}") as broker:
        node = broker.transport("node", username="pi", password_file=str(secret), on_fatal=failures.put)
        with node, pytest.raises(ConfigError) as refused:
            node.wait_connected(LIMIT_S)

    assert failures.get(timeout=LIMIT_S) is refused.value
    for part in ("'pi'", f"127.0.0.1:{broker.port}", "mqtt.password_file"):
        assert part in str(refused.value)
    assert "wrong" not in str(refused.value)
    with pytest.raises(TransportError, match="closed"):
        node.publish("a", b"")


@pytest.mark.broker
def test_the_first_line_of_the_password_file_logs_in(make_mosquitto: Callable[..., Any], tmp_path: Path) -> None:
    users = make_password_file(tmp_path)
    secret = tmp_path / "secret"
    secret.write_text("right\nnot this\n")

    with (
        make_mosquitto("allow_anonymous false", f"password_file {users}") as broker,
        broker.transport("node", username="pi", password_file=str(secret)) as node,
    ):
        assert node.wait_connected(LIMIT_S)


def test_a_missing_password_file_is_named(embedded_broker: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"mqtt\.password_file: .*nowhere"):
        embedded_broker.transport("node", username="pi", password_file=str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=r"mqtt\.username"):
        embedded_broker.transport("node", password_file=str(tmp_path / "nowhere"))


class ScriptedBroker:
    """Answers one packet of each connection after another as told; ``None`` closes instead."""

    def __init__(self, *connections: list[Callable[[bytes], bytes] | None]) -> None:
        self._connections = connections
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(LIMIT_S)
        self._listening.close()

    def _run(self) -> None:
        for answers in self._connections:
            client, _ = self._listening.accept()
            client.settimeout(LIMIT_S)
            with client:
                for answer in answers:
                    packet = client.recv(65_536)
                    if answer is not None:
                        client.sendall(answer(packet))


def accept(_connect: bytes) -> bytes:
    return bytes([0x20, 2, 0, 0])


def deny(subscribe: bytes) -> bytes:
    return bytes([0x90, 3, *subscribe[2:4], 0x80])


def test_a_refused_subscription_is_fatal() -> None:
    with ScriptedBroker([accept, deny]) as broker:
        node = MqttTransport(Mqtt(port=broker.port, version="3.1.1"), client_id="node")
        node.subscribe("closed/topic", Inbox(1))
        with node, pytest.raises(ConfigError, match=r"closed/topic.*access control"):
            node.wait_connected(LIMIT_S)


def test_a_broker_that_hangs_up_on_version_5_is_tried_with_3() -> None:
    with (
        ScriptedBroker([None], [accept, None]) as broker,
        MqttTransport(Mqtt(port=broker.port), client_id="node") as node,
    ):
        assert node.wait_connected(LIMIT_S)


def test_bytes_that_are_no_mqtt_cost_the_connection_and_nothing_else() -> None:
    with (
        ScriptedBroker([lambda _: b"\xff" * 100], [lambda _: b"\x20\x7f"], [accept, None]) as broker,
        MqttTransport(Mqtt(port=broker.port, version="3.1.1"), client_id="node") as node,
    ):
        assert node.wait_connected(LIMIT_S)


@pytest.mark.broker
def test_the_brokers_packet_limit_is_obeyed(make_mosquitto: Callable[..., Any]) -> None:
    inbox = Inbox(8)

    with make_mosquitto("allow_anonymous true", "max_packet_size 20000") as broker:
        node = broker.transport("node")
        node.subscribe("a", inbox)
        node.publish("a", bytes(30_000))  # nobody has told the limit yet
        with node:
            assert node.wait_connected(LIMIT_S)
            with pytest.raises(TransportError, match="20000 bytes"):
                node.publish("a", bytes(30_000))
            node.publish("a", b"small")

            assert payload_of(inbox) == b"small"
            assert node.counters()["dropped_too_large"] == 1
            assert node.counters()["refused_too_large"] == 1


@pytest.mark.broker
def test_a_message_that_kills_connections_is_dropped_and_takes_no_other_along(
    make_mosquitto: Callable[..., Any],
) -> None:
    inbox = Inbox(100)

    with make_mosquitto("allow_anonymous true", "max_packet_size 20000") as broker:
        node = broker.transport("node", version="3.1.1")  # which cannot tell the limit
        node.subscribe("a", inbox)
        node.publish("a", bytes(30_000))
        for number in range(30):
            node.publish("a", str(number).encode())
        with node:
            received = {int(payload_of(inbox)) for _ in range(30)}

            assert received == set(range(30))
            assert node.counters()["dropped_suspect"] == 1


@pytest.mark.broker
def test_a_small_receive_maximum_is_kept_when_much_has_waited(make_mosquitto: Callable[..., Any]) -> None:
    inbox = Inbox(1000)

    with make_mosquitto("allow_anonymous true", "max_inflight_messages 2") as broker:
        node = broker.transport("node")
        node.subscribe("a", inbox)
        for number in range(500):
            node.publish("a", str(number).encode())
        with node:
            assert [int(payload_of(inbox)) for _ in range(500)] == list(range(500))
            assert "losses" not in node.counters()


@pytest.mark.broker
def test_the_time_a_message_is_worth_travels_with_it(mosquitto: Any) -> None:
    received: queue.SimpleQueue[paho.MQTTMessage] = queue.SimpleQueue()
    reader = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    reader.on_message = lambda _client, _user, message: received.put(message)

    with mosquitto.transport("sender") as sender:
        reader.on_connect = lambda *_: reader.subscribe([("a", 1), ("b", 1)])
        sender.publish("a", b"with", is_retained=True, expiry_s=299.5)  # whole seconds on the wire, rounded up
        sender.publish("b", b"without", is_retained=True)
        reader.connect(mosquitto.host, mosquitto.port)
        reader.loop_start()
        messages = {message.topic: message for message in (received.get(timeout=LIMIT_S) for _ in range(2))}
        reader.disconnect()
        reader.loop_stop()

    assert 200 <= messages["a"].properties.MessageExpiryInterval <= 300
    assert not hasattr(messages["b"].properties, "MessageExpiryInterval")


@pytest.mark.parametrize("version", ["auto", "3.1.1"])
def test_the_embedded_broker_is_reached_without_delay(embedded_broker: Any, version: str) -> None:
    with embedded_broker.transport("node", version=version) as node:
        assert node.wait_connected(LIMIT_S)

    assert node._attempts._backoff._attempts == 0  # it never waited for its next one


def test_a_broker_without_version_5_refuses_a_client_that_insists(embedded_broker: Any) -> None:
    node = embedded_broker.transport("node", version="5")

    with node, pytest.raises(ConfigError, match=r"MQTT 5 \(mqtt.version\)"):
        node.wait_connected(LIMIT_S)


def test_of_two_processes_with_one_id_the_newcomer_stops(any_broker: Any) -> None:
    statuses = Inbox(100)
    came_online: queue.SimpleQueue[None] = queue.SimpleQueue()

    def online() -> bytes:
        came_online.put(None)
        return b"online"

    presence = Presence(topic="status/a", online=online, stopped=lambda: b"stopped", gone=b"offline")
    newcomers = Presence(topic="status/a", online=lambda: b"newcomer", stopped=lambda: b"stopped", gone=b"offline")
    incumbent = any_broker.transport("node", presence=presence)
    requests = Inbox(8)
    incumbent.subscribe("request", requests)

    with incumbent, any_broker.transport("watcher") as watcher:
        came_online.get(timeout=LIMIT_S)
        incumbent._attempts._tenure._first_online -= WAY_PAST_SETTLING_S
        failed = threading.Event()
        newcomer = any_broker.transport("node", presence=newcomers, on_fatal=lambda _: failed.set())
        with newcomer:
            assert failed.wait(LIMIT_S)
            with pytest.raises(ConfigError, match=r"'node' is in use .* node\.id"):
                newcomer.wait_connected(LIMIT_S)

        while not incumbent.is_connected:
            came_online.get(timeout=LIMIT_S)
        assert any(is_served(watcher, requests) for _ in range(20))  # it may not have learnt yet that it was put out
        watcher.subscribe("status/a", statuses)
        assert any(payload_of(statuses) == b"online" for _ in range(3))


def is_served(watcher: MqttTransport, requests: Inbox) -> bool:
    """Whether a request reaches who subscribed to it within a moment."""
    watcher.publish("request", b"still served")
    return requests.get(LIMIT_S / 20) is not None


def test_stopping_while_the_broker_is_away_is_quick_and_leaves_no_thread(any_broker: Any) -> None:
    any_broker.stop()
    node, is_waiting = any_broker.transport("node"), threading.Event()
    node._attempts.next_wait_s = lambda: (is_waiting.set(), 3600.0)[1]

    with node:
        node.publish("a", b"will be lost")
        assert is_waiting.wait(LIMIT_S)
        assert not node.is_connected

    assert node.counters()["lost_at_stop"] == 1
    assert not [thread for thread in threading.enumerate() if thread.name == "mqtt"]


def test_an_absent_broker_is_named_once_with_a_remedy(any_broker: Any, caplog: pytest.LogCaptureFixture) -> None:
    any_broker.stop()

    node, waits, has_tried = any_broker.transport("node"), itertools.count(1), threading.Event()
    node._attempts.next_wait_s = lambda: (next(waits) >= 3 and has_tried.set(), 0.01)[1]

    with node:
        assert has_tried.wait(LIMIT_S)
        assert not node.is_connected

    warnings = [record.getMessage() for record in caplog.records if "no connection" in record.getMessage()]
    assert len([record for record in caplog.records if record.levelname == "WARNING" and "no conn" in record.msg]) == 1
    assert f"127.0.0.1:{any_broker.port}" in warnings[0]
    assert "mqtt.host" in warnings[0]
