"""What the containers start is checked without a container engine: schema, real broker, real login."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from brokers import free_port

from common.config.load import load
from common.config.settings import CloudSettings, DeviceSettings, EdgeSettings

INFRA = Path(__file__).parents[2] / "infra"
COMPOSE = INFRA / "compose.yaml"
HADOLINT = Path(sys.executable).parent / "hadolint"
LIMIT_S = 60.0


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return dict(yaml.safe_load(COMPOSE.read_text())["services"])


def test_compose_file_follows_the_compose_specification() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)]

    checked = subprocess.run(command, capture_output=True, text=True, check=False)

    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_dockerfile_passes_its_linter() -> None:
    checked = subprocess.run([HADOLINT, INFRA / "Dockerfile"], capture_output=True, text=True, check=False)

    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_linter_would_find_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM python\nRUN cd /tmp && ls\n")

    checked = subprocess.run([HADOLINT, tmp_path / "Dockerfile"], capture_output=True, text=True, check=False)

    assert checked.returncode == 1
    assert {"DL3006", "DL3003"} <= set(re.findall(r"DL\d+", checked.stdout))


def test_every_service_is_unprivileged_on_a_read_only_root(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name
    users = {name: service.get("user") for name, service in services.items()}
    assert users.pop("passwords") == "0:0"  # it gives each file to its reader, and ends
    assert users.pop("broker") == "1883:1883"
    assert set(users.values()) == {None}  # from the image
    assert "USER 10001:10001" in (INFRA / "Dockerfile").read_text()


def test_every_long_running_service_has_a_health_check(services: dict[str, Any]) -> None:
    assert [name for name, service in services.items() if "healthcheck" not in service] == ["passwords"]


def test_every_volume_and_file_of_the_compose_file_exists(services: dict[str, Any]) -> None:
    declared = set(yaml.safe_load(COMPOSE.read_text())["volumes"])

    sources = {volume.split(":")[0] for service in services.values() for volume in service.get("volumes", ())}

    assert {source for source in sources if not source.startswith(".")} == declared
    assert all((INFRA / source).is_file() for source in sources if source.startswith("."))


def test_settings_in_the_compose_file_are_known(services: dict[str, Any]) -> None:
    for name, kind in (("edge", EdgeSettings), ("cloud", CloudSettings), ("device", DeviceSettings)):
        environment = {key: _interpolated(value) for key, value in services[name]["environment"].items()}

        settings = load(kind, None, environment)

        assert settings.mqtt.host == "broker"
        assert settings.mqtt.password_file == "/run/dimee/password"


def test_dockerfile_copies_only_what_its_ignore_file_lets_in() -> None:
    allowed = {line[1:] for line in (INFRA / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"}

    copied = set()
    for line in (INFRA / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            copied |= set(line.split()[1:-1])

    assert copied == allowed
    assert all((INFRA.parent / source).exists() for source in copied)


@pytest.mark.broker
@pytest.mark.usefixtures("make_mosquitto")  # for its skip
def test_login_made_by_the_script_opens_a_broker_with_the_shipped_configuration(tmp_path: Path) -> None:
    password = _run_passwords(tmp_path)

    with _shipped_broker(tmp_path) as port:
        assert _connack(port, "dimee", password) == 0
        assert _connack(port, "dimee", password + "x") == 5  # not authorised
        assert _connack(port, None, None) == 5


@pytest.mark.broker
@pytest.mark.usefixtures("make_mosquitto")
def test_login_script_keeps_renews_and_imports(tmp_path: Path) -> None:
    first = _run_passwords(tmp_path)

    kept = _run_passwords(tmp_path)
    renewed = _run_passwords(tmp_path, "--renew")
    imported = _run_passwords(tmp_path, "--import", stdin="of the other machine\n")

    assert len(first) == 48
    assert kept == first
    assert renewed != first
    assert imported == "of the other machine"
    assert (tmp_path / "plain" / "password").stat().st_mode & 0o777 == 0o400
    assert imported not in (tmp_path / "hashes" / "passwords").read_text()


@pytest.mark.broker
@pytest.mark.usefixtures("make_mosquitto")
def test_configuration_for_one_machine_needs_no_login_and_stays_on_loopback(tmp_path: Path) -> None:
    text = (INFRA / "mosquitto" / "local.conf").read_text()
    listeners = [line for line in text.splitlines() if line.startswith("listener")]

    with _broker(tmp_path, text, listeners[0]) as port:
        assert _connack(port, None, None) == 0

    assert listeners == ["listener 1883 127.0.0.1"]


def _interpolated(value: str) -> str:
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value)


def _run_passwords(folder: Path, *options: str, stdin: str = "") -> str:
    for name in ("hashes", "plain"):
        (folder / name).mkdir(exist_ok=True)
    owner = f"{os.getuid()}:{os.getgid()}"
    environment = os.environ | {
        "HASHES_DIR": str(folder / "hashes"),
        "PLAIN_DIR": str(folder / "plain"),
        "BROKER_OWNER": owner,
        "TIER_OWNER": owner,
    }
    script = ["sh", str(INFRA / "mosquitto" / "passwords.sh"), *options]
    subprocess.run(script, env=environment, input=stdin, text=True, check=True, capture_output=True)
    return (folder / "plain" / "password").read_text().strip()


@contextmanager
def _shipped_broker(folder: Path) -> Iterator[int]:
    (folder / "data").mkdir()
    text = (INFRA / "mosquitto" / "mosquitto.conf").read_text()
    for old, new in {"/mosquitto/secrets": f"{folder}/hashes", "/mosquitto/data": f"{folder}/data"}.items():
        assert old in text
        text = text.replace(old, new)
    with _broker(folder, text, "listener 1883") as port:
        yield port


@contextmanager
def _broker(folder: Path, text: str, listener: str) -> Iterator[int]:
    """Run Mosquitto on a configuration, on a port of its own in the place of ``listener``."""
    port = free_port()
    assert listener in text
    text = text.replace(listener, f"listener {port} 127.0.0.1")
    if os.getuid() == 0:
        text += "user root\n"  # in the container Mosquitto never starts as root
    config = folder / "mosquitto.conf"
    config.write_text(text)
    program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin") or "mosquitto"
    with subprocess.Popen([program, "-c", str(config)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        try:
            _wait(lambda: _listens(port) or process.poll() is not None)
            assert process.poll() is None, process.stdout and process.stdout.read().decode()
            yield port
        finally:
            process.terminate()
            process.wait(LIMIT_S)


def _wait(is_done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not is_done() and time.monotonic() < deadline:
        time.sleep(0.02)  # nothing tells when a foreign process listens


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _connack(port: int, user: str | None, password: str | None) -> int:
    """Connect under MQTT 3.1.1, byte by byte, and give the return code."""

    def field(text: str) -> bytes:
        return len(text).to_bytes(2, "big") + text.encode()

    flags = 0x02 | (0xC0 if user else 0)
    body = field("MQTT") + bytes([4, flags, 0, 30]) + field("probe")
    body += field(user) + field(password or "") if user else b""
    with socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S) as connection:
        connection.sendall(bytes([0x10, len(body)]) + body)
        return connection.recv(4)[3]
