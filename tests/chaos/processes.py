"""The processes under test, started by their commands, each on its own proxied link and restarted when it dies."""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from common.certificates.names import Role
from common.config.settings import Mqtt
from common.transport.contract import Inbox
from common.transport.mqtt import MqttTransport
from common.wire.documents import decode_status
from common.wire.topics import Topics
from tests.chaos.protection import Protection
from tests.chaos.proxy import Proxy

HOST = "127.0.0.1"
_STOP_LIMIT_S = 30.0
_COMMAND = (sys.executable, "-m", "common.cli")


class Process:
    """One command that can be killed and started again."""

    def __init__(self, name: str, command: list[str], environment: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.started_at = 0.0  # monotonic seconds
        self.deaths = 0  # by itself
        self._command = command
        self._environment = {**os.environ, **environment}
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._stderr: IO[bytes] | None = None

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    def start(self) -> None:
        """Run it, unless another of two faults at once has started it again already."""
        if self.is_alive:
            return
        self._stderr = self._log.open("ab")
        self._process = subprocess.Popen(
            self._command,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._stderr,
            start_new_session=True,
        )
        self.started_at = time.monotonic()

    def kill(self) -> None:
        """End it at once; nothing of it runs on."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """Ask it to stop and give its exit status."""
        return self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> int:
        if self._process is None:
            return 0
        if self._process.poll() is None:
            self._process.send_signal(number)
        try:
            status = self._process.wait(_STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait() - 1000
        if self._stderr is not None:
            self._stderr.close()
        return status


class Fleet:
    """A broker, an edge with the log, a second edge, a cloud worker and devices."""

    def __init__(
        self,
        directory: Path,
        bundle: str,
        broker: str,
        *,
        num_devices: int,
        preload: Mapping[str, Mapping[str, str]],
        is_protected: bool = False,
    ) -> None:
        self.directory = directory
        self.site = f"chaos{os.getpid()}"
        self.topics = Topics(self.site)
        self.devices = [f"device{number}" for number in range(1, num_devices + 1)]
        self.log = directory / "log.sqlite"
        self.broker_kind = broker
        self.broker_port = _free_port()
        self.processes: dict[str, Process] = {}
        self.proxies: dict[str, Proxy] = {}
        self.online_at: dict[str, float] = {}
        self.down: set[str] = set()  # on purpose
        self.restarts: Counter[str] = Counter()
        self._bundle = bundle
        self._preload = dict(preload)
        roles = {"edge1": Role.EDGE, "edge2": Role.EDGE, "cloud1": Role.CLOUD} | dict.fromkeys(
            self.devices, Role.DEVICE
        )
        self._protection = Protection(directory, self.site, bundle, roles) if is_protected else None
        self._stack = ExitStack()
        self._leaving = threading.Event()
        self._watch = threading.Thread(target=self._supervise, name="supervisor")

    def __enter__(self) -> Self:
        self.processes["broker"] = Process("broker", self._broker_command(), {}, self.directory / "broker.err")
        self.processes["broker"].start()
        _wait_listening(self.broker_port)
        recorder = {"DIMEE_LOG__URL": f"sqlite:///{self.log}"}
        self._add("edge1", "edge", recorder)
        self._add("edge2", "edge", {"DIMEE_LOG__IS_RECORDER": "false"})
        self._add("cloud1", "cloud", {})
        for name in self.devices:
            outbox = self.outbox(name)
            outbox.parent.mkdir(exist_ok=True)
            limits = {"BUDGET_MS": "1500", "RETRY_MS": "300", "MAX_IN_FLIGHT": "256"}
            settings = {f"DIMEE_DEVICE__{key}": value for key, value in limits.items()}
            policy = {"DIMEE_ROUTING__POLICY": "cloud-only"} if self.needs_cloud(name) else {}
            self._add(name, "device", {**settings, **policy, "DIMEE_OUTBOX__PATH": str(outbox)})
        watcher = MqttTransport(self.settings("watch"), client_id=f"{self.site}-watch")
        statuses = Inbox(1000)
        watcher.subscribe(self.topics.status("+", "+"), statuses)
        listener = threading.Thread(target=self._listen, args=(statuses,), name="statuses")
        listener.start()
        self._stack.callback(listener.join)
        self._stack.enter_context(watcher)
        self._watch.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leaving.set()
        self._watch.join()
        self._stack.close()
        for process in self.processes.values():
            process.kill()
        for proxy in self.proxies.values():
            proxy.__exit__(None, None, None)

    def needs_cloud(self, device: str) -> bool:
        """Whether a device sends everything to the cloud; each second one does."""
        return self.devices.index(device) % 2 == 1

    def outbox(self, device: str) -> Path:
        return self.directory / f"{device}.disk" / "outbox.sqlite"

    def settings(self, name: str) -> Mqtt:
        """Lead a transport to the broker, past the proxies; it shows the certificate of ``name`` where one is asked."""
        tls = {} if self._protection is None else self._protection.tls(name)
        return Mqtt(host=HOST, port=self.broker_port, site=self.site, max_inbox=100_000, max_outbox=20_000, **tls)

    def wait_online(self, name: str, after: float, limit_s: float) -> float | None:
        """Tell when a node said online after a moment, or None if it did not in time."""
        end = time.monotonic() + limit_s
        while time.monotonic() < end:
            at = self.online_at.get(name, 0.0)
            if at > after:
                return at
            time.sleep(0.02)
        return None

    def stop_devices(self) -> dict[str, int]:
        """Let devices drain and give their exit statuses."""
        self.down.update(self.devices)
        return {name: self.processes[name].stop() for name in self.devices}

    def _add(self, name: str, tier: str, settings: Mapping[str, str]) -> None:
        proxy = Proxy(self.broker_port).__enter__()
        self.proxies[name] = proxy
        own = {
            "DIMEE_NODE__ID": name,
            "DIMEE_MODEL__BUNDLE": self._bundle,
            "DIMEE_MQTT__HOST": HOST,
            "DIMEE_MQTT__PORT": str(proxy.port),
            "DIMEE_MQTT__SITE": self.site,
            "DIMEE_MQTT__KEEPALIVE_S": "2",  # a half-open link is found out within three seconds
        }
        protection = {} if self._protection is None else self._protection.environment(name)
        preload = self._preload.get(name, {})
        command = [*_COMMAND, tier, "run"]
        self.processes[name] = Process(
            name, command, {**own, **settings, **protection, **preload}, self.directory / f"{name}.err"
        )
        self.processes[name].start()

    def _listen(self, statuses: Inbox) -> None:
        for delivery in statuses:
            status = decode_status(delivery.payload)
            if status.state == "online":
                self.online_at[status.node] = delivery.received_at

    def _supervise(self) -> None:
        """Start again what died by itself, as systemd would."""
        while not self._leaving.wait(0.2):
            for name, process in self.processes.items():
                if name not in self.down and process.started_at and not process.is_alive:
                    self.restarts[name] += 1
                    self._leaving.wait(0.5)
                    if name not in self.down:
                        process.start()

    def _broker_command(self) -> list[str]:
        if self.broker_kind == "embedded":
            return [*_COMMAND, "broker", "run", "--port", str(self.broker_port)]
        program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if program is None:
            raise SystemExit("mosquitto is not installed; use --broker embedded")
        config = self.directory / "mosquitto.conf"
        access = ["allow_anonymous true"] if self._protection is None else self._protection.broker_lines()
        lines = [f"listener {self.broker_port} {HOST}", *access, "set_tcp_nodelay true", "user root"]
        config.write_text("\n".join([*lines, "max_queued_messages 100000", ""]))
        return [program, "-c", str(config)]


def _free_port() -> int:
    while True:
        port = random.randrange(20_000, 32_000)  # none that the system gives to those who call a broker that is away
        with socket.socket() as probe, suppress(OSError):
            probe.bind((HOST, port))
            return port


def _wait_listening(port: int, limit_s: float = 30.0) -> None:
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex((HOST, port)) == 0:
                return
        time.sleep(0.05)
    raise SystemExit(f"no broker on port {port} after {limit_s:.0f} s")
