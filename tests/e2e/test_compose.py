"""The compose file's services by their own commands, without containers: started in any order, and unplugged."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from brokers import Mosquitto

from common.cli.output import printable
from common.commands import broker_checks
from common.commands.doctor import examine
from common.commands.finding import Finding
from common.config.header import SETTINGS
from common.config.load import load
from common.dashboard.site import Site
from common.store.engine import readable_log
from common.transport.contract import Inbox
from common.types import TIERS, Tier
from common.wire.documents import decode_status
from common.wire.topics import Topics

pytestmark = [pytest.mark.e2e, pytest.mark.broker]
COMPOSE = Path(__file__).parents[2] / "infra" / "compose.yaml"
LIMIT_S = 60.0
PASSWORD = "of-these-tests"


class Services:
    """Edge, cloud and device as processes, the broker as it is configured for containers."""

    def __init__(self, folder: Path, broker: Mosquitto, stack: ExitStack) -> None:
        self.keepalive_s = 30
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._services = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"]
        self._folder = folder
        self._broker = broker
        self._stack = stack

    def environment(self, service: str) -> dict[str, str]:
        """Give a service's variables, with this machine's addresses and paths."""
        given = {name: _default(value) for name, value in self._services[service]["environment"].items()}
        data = self._folder / service
        data.mkdir(exist_ok=True)
        given |= {"DIMEE_MQTT__HOST": self._broker.host, "DIMEE_MQTT__PORT": str(self._broker.port)}
        given["DIMEE_MQTT__KEEPALIVE_S"] = str(self.keepalive_s)
        given["DIMEE_MQTT__PASSWORD_FILE"] = str(self._folder / "password")
        return {name: value.replace("/data/", f"{data}/") for name, value in given.items()}

    def start(self, service: str) -> None:
        """Run a service's command; the broker's is the one of its image."""
        if service == "broker":
            self._broker.start()
            self._stack.callback(self._broker.stop)
            return
        command = [sys.executable, "-m", "common.cli", *self._services[service]["command"]]
        own = {name: value for name, value in os.environ.items() if not name.startswith("DIMEE_")}
        process = subprocess.Popen(command, env=own | self.environment(service), stderr=subprocess.DEVNULL)
        self.processes[service] = process
        self._stack.callback(self._stop, process)

    def _stop(self, process: subprocess.Popen[bytes]) -> None:
        process.kill()
        process.wait(LIMIT_S)

    def doctor(self, tier: Tier) -> list[Finding]:
        """Examine a tier as 'dimee doctor' does in its container."""
        environment = self.environment(str(tier))
        return list(examine(load(SETTINGS[tier], None, environment), tier))


@pytest.fixture
def services(make_mosquitto: Any, tmp_path: Path) -> Iterator[Services]:
    passwords = tmp_path / "passwords"
    subprocess.run(["mosquitto_passwd", "-b", "-c", passwords, "dimee", PASSWORD], check=True)
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    broker = make_mosquitto("allow_anonymous false", f"password_file {passwords}")
    with ExitStack() as stack:
        yield Services(tmp_path, broker, stack)


def _default(value: str) -> str:
    return value.rsplit(":-", maxsplit=1)[-1].rstrip("}") if value.startswith("${") else value


def statuses(services: Services, stack: ExitStack, client_id: str = "watcher") -> Inbox:
    """Listen as the dashboard does."""
    inbox = Inbox(10_000)
    login = {"username": "dimee", "password_file": str(services._folder / "password")}
    watcher = stack.enter_context(services._broker.transport(client_id, **login))
    watcher.subscribe(Topics("home").status("+", "+"), inbox)
    return inbox


def wait_states(inbox: Inbox, state: str, limit_s: float) -> None:
    """Wait until all three tiers say so."""
    missing, deadline = set(TIERS), time.monotonic() + limit_s
    while missing:
        delivery = inbox.get(max(0.0, deadline - time.monotonic()))
        assert delivery is not None, f"{missing} did not become {state} within {limit_s} s"
        status = decode_status(delivery.payload)
        if status.state == state:
            missing.discard(status.tier)


def faults(findings: list[Finding]) -> list[str]:
    return [printable(f"{each.check}: {each.detail}") for each in findings if each.state == "failed"]


@pytest.mark.parametrize(
    "order", [("broker", "edge", "cloud", "device"), ("device", "cloud", "edge", "broker")], ids=" ".join
)
def test_services_come_up_in_any_order_and_doctor_finds_nothing(
    services: Services, order: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_checks, "_REPLY_LIMIT_S", LIMIT_S)
    for service in order:
        services.start(service)

    with ExitStack() as stack:
        wait_states(statuses(services, stack), "online", LIMIT_S)
        found = {tier: faults(services.doctor(tier)) for tier in TIERS}

    assert found == {tier: [] for tier in TIERS}


@pytest.mark.parametrize(
    ("how", "keepalive_s"),
    [
        (signal.SIGKILL, 30),  # as a container that is killed: its connections end
        (signal.SIGSTOP, 2),  # as without a cable: it says nothing more, and its connection stands
    ],
)
def test_what_is_unplugged_is_named(services: Services, tmp_path: Path, how: signal.Signals, keepalive_s: int) -> None:
    services.keepalive_s = keepalive_s
    for service in ("broker", "edge", "cloud", "device"):
        services.start(service)
    with ExitStack() as stack:
        inbox, shown = statuses(services, stack), statuses(services, stack, "page")
        wait_states(inbox, "online", LIMIT_S)
        for process in services.processes.values():
            process.send_signal(how)
        wait_states(inbox, "offline", LIMIT_S)
        said = faults(services.doctor(Tier.DEVICE))
        log = stack.enter_context(readable_log(str(tmp_path / "edge" / "dimee-log.sqlite")))
        page = Site(log, shown)
        nodes = {node.node: node.state for node in page.look().nodes}

    assert any("'edge-1' vanished" in line for line in said)
    assert any("'cloud-1' vanished" in line for line in said)
    assert nodes == {"device-1": "offline", "edge-1": "offline", "cloud-1": "offline"}


def test_a_broker_that_is_unplugged_is_named(services: Services) -> None:
    services.start("broker")
    with ExitStack() as stack:
        login = {"username": "dimee", "password_file": str(services._folder / "password")}
        page = stack.enter_context(services._broker.transport("page", **login))
        assert page.wait_connected(LIMIT_S)
        services._broker.stop()
        said = faults(services.doctor(Tier.EDGE))

    assert any(line.startswith("broker: ") for line in said)
