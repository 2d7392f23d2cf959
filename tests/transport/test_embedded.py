"""The embedded broker and its command."""

import logging
import signal
import socket
import subprocess
import sys
import threading

import pytest

from common.errors import ConfigError
from common.transport.door import VERSION_REFUSED
from common.transport.embedded import EmbeddedBroker

LIMIT_S = 60.0


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.10", "", "broker.example", "::"])
def test_only_loopback_is_served(host: str) -> None:
    with pytest.raises(ConfigError, match="loopback"):
        EmbeddedBroker(host)


def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        with pytest.raises(ConfigError, match=f"127.0.0.1:{port}"), EmbeddedBroker(port=port):
            pass


def test_a_missing_amqtt_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "amqtt.broker", None)
    monkeypatch.delitem(sys.modules, "common.transport.amqtt_broker", raising=False)

    with pytest.raises(ConfigError, match=r"pip install 'dimee\[edge\]'"):
        EmbeddedBroker()


def test_the_system_chooses_the_port_and_nothing_is_left_after_it(caplog: pytest.LogCaptureFixture) -> None:
    with EmbeddedBroker(port=0) as broker, socket.create_connection((broker.host, broker.port), LIMIT_S) as client:
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert client.recv(100) in (b"", bytes([0x20, 2, 0, 1]))
        silent = socket.create_connection((broker.host, broker.port), LIMIT_S)

    silent.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "broker"]
    with socket.create_server(("127.0.0.1", broker.port)):
        pass
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_version_5_connect_is_refused_at_once() -> None:
    connect = bytes([0x10, 16, 0, 4, *b"MQTT", 5, 2, 0, 30, 0, 0, 3, *b"abc"])

    with EmbeddedBroker(port=0) as broker, socket.create_connection((broker.host, broker.port), LIMIT_S) as client:
        client.sendall(connect)

        assert client.recv(100) == VERSION_REFUSED


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_until_a_signal(number: signal.Signals) -> None:
    command = [sys.executable, "-c", "from common.cli.root import main; main()", "broker", "run", "--port", "0"]

    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        port = int(said.split("127.0.0.1:")[1].split(";")[0])
        socket.create_connection(("127.0.0.1", port), LIMIT_S).close()
        process.send_signal(number)
        _, errors = process.communicate(timeout=LIMIT_S)

    assert process.returncode == 0
    assert "Traceback" not in errors


def test_the_command_refuses_a_network_address() -> None:
    command = [sys.executable, "-c", "from common.cli.root import main; main()", "broker", "run", "--host", "0.0.0.0"]

    finished = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert finished.returncode == 2
    assert "loopback" in finished.stderr
