"""Real brokers for the tests, and how to find a port and wait for a server."""

import os
import pwd
import random
import shutil
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import pytest

from common.config.settings import Mqtt
from common.transport.embedded import EmbeddedBroker
from common.transport.loopback import LoopbackBroker, LoopbackTransport
from common.transport.mqtt import MqttTransport

START_LIMIT_S = 60.0


class NetworkBroker:
    """A broker on a loopback port that can be stopped and started again on the same port."""

    name = "?"
    has_groups = False
    host = "127.0.0.1"

    def __init__(self) -> None:
        self.port = free_port()

    def settings(self, **overrides: Any) -> Mqtt:
        """Give the settings that lead here."""
        return Mqtt(host=self.host, port=self.port, **overrides)

    def transport(self, client_id: str, *, presence: Any = None, on_fatal: Any = None, **overrides: Any) -> Any:
        """Make a transport that is not entered yet."""
        return MqttTransport(self.settings(**overrides), client_id=client_id, presence=presence, on_fatal=on_fatal)

    def vanish(self, transport: Any) -> None:
        """Cut a transport's connection without a word."""
        transport._link._client.socket().shutdown(socket.SHUT_RDWR)

    def start(self) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Mosquitto(NetworkBroker):
    """The real thing, as installed."""

    name = "mosquitto"
    has_groups = True

    def __init__(self, folder: Path, *lines: str) -> None:
        """Write the configuration; ``lines`` come after the listener and replace ``allow_anonymous true``."""
        super().__init__()
        self._config = folder / f"mosquitto-{self.port}.conf"
        user = pwd.getpwuid(os.geteuid()).pw_name  # else root's Mosquitto becomes another user and reads no files here
        options = [*(lines or ("allow_anonymous true",)), "set_tcp_nodelay true", f"user {user}"]
        self._config.write_text("\n".join([f"listener {self.port} {self.host}", *options, ""]))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [mosquitto_path(), "-c", str(self._config)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until_listening(self.host, self.port)

    def stop(self) -> None:
        process, self._process = self._process, None
        while process is not None and process.poll() is None:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):  # 2.0 forgets a signal that comes while it starts
                process.wait(1.0)


class Embedded(NetworkBroker):
    """amqtt in this process."""

    name = "embedded"

    def __init__(self, tls_folder: Path | None = None) -> None:
        super().__init__()
        self._tls_folder = None if tls_folder is None else str(tls_folder)
        self._broker: EmbeddedBroker | None = None

    def start(self) -> None:
        self._broker = EmbeddedBroker(self.host, self.port, tls_folder=self._tls_folder).__enter__()

    def stop(self) -> None:
        if self._broker is not None:
            self._broker.stop()
            self._broker = None


class Loopback:
    """The in-process broker behind the same handles."""

    name = "loopback"
    has_groups = True

    def __init__(self) -> None:
        self._broker = LoopbackBroker()
        self._broker.is_running = False

    def transport(self, client_id: str, *, presence: Any = None, **overrides: Any) -> Any:
        """Make a transport that is not entered yet."""
        self._broker.max_packet_bytes = overrides.get("max_packet_bytes", self._broker.max_packet_bytes)
        max_outbox = overrides.get("max_outbox", 1024)
        return LoopbackTransport(self._broker, client_id=client_id, presence=presence, max_outbox=max_outbox)

    def vanish(self, transport: Any) -> None:
        """End a transport without a word."""
        transport.kill()

    def start(self) -> None:
        self._broker.start()

    def stop(self) -> None:
        self._broker.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def free_port() -> int:
    """Find a loopback port that nobody uses now, and below those that the system gives to outgoing connections.

    A client that calls a broker which is away would else, once in thousands of calls, be given the broker's own port,
    be connected to itself, and keep the broker from coming back.
    """
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def wait_until_listening(host: str, port: int, limit_s: float = START_LIMIT_S) -> None:
    """Return once somebody accepts connections."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex((host, port)) == 0:
                return
        time.sleep(0.01)
    pytest.fail(f"nothing listens on {host}:{port} after {limit_s} s")


def mosquitto_path() -> str:
    """Find Mosquitto, or skip the test; in CI its lack is a failure."""
    found = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        message = "needs the MQTT broker Mosquitto, which is not installed (Debian: apt-get install mosquitto)"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return found
