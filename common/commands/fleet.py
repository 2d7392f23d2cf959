"""Tiers as processes on loopback, for the demo and the benchmarks: started in order, watched, always stopped."""

import logging
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

from common.config.settings import Mqtt
from common.errors import ConfigError, TransportError
from common.transport.contract import Inbox
from common.transport.mqtt import MqttTransport
from common.types import Tier
from common.wire.documents import decode_status
from common.wire.topics import Topics

_LOGGER = logging.getLogger(__name__)
_START_LIMIT_S = 60.0
_STOP_LIMIT_S = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Broker:
    """Where the fleet's messages go."""

    host: str
    port: int
    pid: int | None = None  # of one that was started here

    def environment(self, site: str) -> dict[str, str]:
        """Give the settings that lead a process to this broker."""
        return {"DIMEE_MQTT__HOST": self.host, "DIMEE_MQTT__PORT": str(self.port), "DIMEE_MQTT__SITE": site}


@dataclass(slots=True, kw_only=True)
class Fleet:
    """Processes of one site, each with its own log file in ``directory``."""

    directory: Path
    broker: Broker
    site: str
    bundle: str
    stack: ExitStack
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, tier: Tier, node: str, settings: Mapping[str, str] | None = None) -> None:
        """Start an edge or a cloud worker."""
        self._start(node, [str(tier), "run"], self._environment(node, settings), stdin=subprocess.DEVNULL)

    def start_device(self, node: str, settings: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start a device that reads inputs from its stdin and writes answers to its stdout."""
        return self._start(node, ["device", "run", "--stdin"], self._environment(node, settings), stdin=subprocess.PIPE)

    def wait_online(self, *nodes: str, settings: Mqtt | None = None, client_id: str | None = None) -> None:
        """Wait until every node's retained status says online; ``settings`` where the broker asks who listens.

        Raises:
            ConfigError: A node's process ended instead.
            TransportError: It took too long.
        """
        topics, inbox, missing = Topics(self.site), Inbox(64), set(nodes)
        settings = settings or Mqtt(host=self.broker.host, port=self.broker.port, site=self.site)
        deadline = time.monotonic() + _START_LIMIT_S
        with MqttTransport(settings, client_id=client_id or f"{self.site}-watch") as transport:
            transport.subscribe(topics.status("+", "+"), inbox)
            while missing and time.monotonic() < deadline:
                for delivery in inbox.get_batch(64, timeout=0.2) or ():
                    status = decode_status(delivery.payload)
                    if status.state == "online":
                        missing.discard(status.node)
                self._raise_if_ended(missing)
        if missing:
            raise TransportError(f"{', '.join(sorted(missing))} did not come online within {_START_LIMIT_S:.0f} s")

    def _environment(self, node: str, settings: Mapping[str, str] | None) -> dict[str, str]:
        own = {"DIMEE_NODE__ID": node, "DIMEE_MODEL__BUNDLE": self.bundle}
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("DIMEE_")}
        return inherited | self.broker.environment(self.site) | own | dict(settings or {})

    def _start(
        self, node: str, arguments: list[str], environment: dict[str, str], *, stdin: int
    ) -> subprocess.Popen[bytes]:
        stderr = self.stack.enter_context((self.directory / f"{node}.log").open("wb"))
        stdout = subprocess.PIPE if stdin == subprocess.PIPE else subprocess.DEVNULL
        command = [sys.executable, "-m", "common.cli", *arguments]
        process = self.stack.enter_context(running(command, environment, stdin=stdin, stdout=stdout, stderr=stderr))
        self.processes[node] = process
        return process

    def _raise_if_ended(self, nodes: set[str]) -> None:
        for node in nodes:
            if self.processes[node].poll() is not None:
                said = (self.directory / f"{node}.log").read_text(errors="replace").strip().splitlines()
                raise ConfigError(f"{node} stopped at its start: {said[-1] if said else 'it said nothing'}")


@contextmanager
def fleet(*, directory: Path, broker: str, site: str, bundle: str) -> Iterator[Fleet]:
    """Open a site on a broker: ``embedded``, ``mosquitto`` or HOST:PORT; leaves no process behind."""
    with ExitStack() as stack:
        address = stack.enter_context(open_broker(broker, directory))
        yield Fleet(directory=directory, broker=address, site=site, bundle=bundle, stack=stack)


@contextmanager
def open_broker(kind: str, directory: Path) -> Iterator[Broker]:
    """Start the broker that is named, or check the one that is addressed.

    Raises:
        ConfigError: It cannot be started, or nothing listens there.
    """
    if kind not in {"embedded", "mosquitto"}:
        host, _, port = kind.rpartition(":")
        if not host or not port.isdecimal():
            raise ConfigError(f"--broker {kind!r} is neither embedded, mosquitto, nor HOST:PORT")
        yield Broker(host=host, port=int(port))
        return
    address = Broker(host="127.0.0.1", port=_free_port())
    command = _mosquitto(address.port, directory) if kind == "mosquitto" else _embedded(address.port)
    log = directory / "broker.log"
    with log.open("wb") as stderr, running(command, dict(os.environ), stdout=stderr, stderr=stderr) as process:
        _wait_until_listening(address, process, log)
        yield replace(address, pid=process.pid)


@contextmanager
def running(
    command: list[str],
    environment: dict[str, str],
    *,
    stdin: int = subprocess.DEVNULL,
    stdout: int | IO[bytes],
    stderr: int | IO[bytes],
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process in a session of its own, so that Ctrl-C reaches only us, and stop it at the end."""
    with subprocess.Popen(  # noqa: S603 - our own commands
        command, env=environment, stdin=stdin, stdout=stdout, stderr=stderr, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    process.terminate()
    try:
        process.wait(_STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        _LOGGER.warning("process %d did not stop within %.0f s and is killed", process.pid, _STOP_LIMIT_S)
        process.kill()
        process.wait()


def _mosquitto(port: int, directory: Path) -> list[str]:
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
    if program is None:
        raise ConfigError("--broker mosquitto: mosquitto is not installed; apt install mosquitto, or --broker embedded")
    config = directory / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\n", encoding="utf-8")
    return [program, "-c", str(config)]


def _embedded(port: int) -> list[str]:
    return [sys.executable, "-m", "common.cli", "broker", "run", "--port", str(port)]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_listening(address: Broker, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_LIMIT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            said = log.read_text(errors="replace").strip().splitlines()
            raise ConfigError(f"the broker stopped at its start: {said[-1] if said else 'it said nothing'}")
        try:
            socket.create_connection((address.host, address.port), timeout=1).close()
        except OSError:
            time.sleep(0.05)  # nothing tells when a foreign process listens
        else:
            return
    raise TransportError(f"nothing listens on {address.host}:{address.port} after {_START_LIMIT_S:.0f} s")
