"""The service's unit: what systemd makes of it, what it may touch, and what the install command refuses."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.commands.service_unit import DEFAULT_FOLDER, DEFAULT_PROGRAM, unit_name, write_unit
from common.types import TIERS, Tier

UNITS = Path(__file__).parents[2] / "infra" / "systemd"
Dimee = Callable[..., Any]


@pytest.fixture
def systemd_analyze() -> str:
    found = shutil.which("systemd-analyze")
    if found is None:
        message = "needs systemd-analyze, which is not installed (Debian: apt-get install systemd)"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    return str(found)


@pytest.mark.parametrize("tier", TIERS)
def test_the_units_in_the_repository_are_those_that_install_writes(tier: Tier) -> None:
    written = write_unit(tier, [str(DEFAULT_PROGRAM)], DEFAULT_FOLDER / f"{tier}.toml", {})

    assert (UNITS / f"{unit_name(tier)}.service").read_text(encoding="utf-8") == written


@pytest.mark.parametrize("tier", TIERS)
def test_systemd_understands_every_line(tier: Tier, tmp_path: Path, systemd_analyze: str) -> None:
    odd = tmp_path / 'a folder, 100% "odd"'
    unit = tmp_path / f"{unit_name(tier)}.service"
    program = [sys.executable, "-m", "common.cli"]
    unit.write_text(write_unit(tier, program, odd / "x.toml", {"mqtt.password_file": odd / "password"}))

    done = subprocess.run([systemd_analyze, "verify", str(unit)], capture_output=True, text=True, check=False)

    ours = [line for line in done.stderr.splitlines() if unit.name in line]
    assert (done.returncode, ours) == (0, [])


@pytest.mark.parametrize("tier", TIERS)
def test_the_sandbox_leaves_little(tier: Tier, systemd_analyze: str) -> None:
    unit = UNITS / f"{unit_name(tier)}.service"
    command = [systemd_analyze, "security", "--offline=true", "--threshold=20", "--no-pager", str(unit)]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout[-400:] + done.stderr  # exposure of at most 2.0 of 10


def test_install_writes_the_unit_and_hands_secrets_over(tmp_path: Path, dimee: Dimee) -> None:
    config = tmp_path / "cloud.toml"
    (tmp_path / "password").write_text("s3cret\n")
    login = ("--username", "dimee", "--password-file", tmp_path / "password")
    dimee("init", "cloud", "--yes", "--id", "cloud-1", "--out", config, *login)

    done = dimee("service", "install", "--config", config, "--unit-folder", tmp_path, "--json")

    unit = (tmp_path / "dimee-cloud.service").read_text(encoding="utf-8")
    assert done.document == {"unit": str(tmp_path / "dimee-cloud.service"), "started": False}
    assert f"LoadCredential=mqtt.password_file:{tmp_path / 'password'}\n" in unit
    assert "Environment=DIMEE_MQTT__PASSWORD_FILE=%d/mqtt.password_file\n" in unit
    assert f"cloud run --config {config}\n" in unit
    assert "s3cret" not in unit


def test_a_unit_that_was_changed_by_hand_stays_unless_forced(tmp_path: Path, dimee: Dimee) -> None:
    config, unit = tmp_path / "cloud.toml", tmp_path / "dimee-cloud.service"
    dimee("init", "cloud", "--yes", "--out", config)
    install = ("service", "install", "--config", config, "--unit-folder", tmp_path)
    first, again = dimee(*install), dimee(*install)
    unit.write_text(unit.read_text() + "# mine\n")

    refused, kept = dimee(*install), unit.read_text()
    forced = dimee(*install, "--force")

    assert [first.status, again.status, refused.status, forced.status] == [0, 0, 2, 0]
    assert kept.endswith("# mine\n")
    assert not unit.read_text().endswith("# mine\n")


@pytest.mark.parametrize(
    ("tier", "arguments", "said"),
    [
        (Tier.EDGE, ["--data", "DATA"], "may write in /var/lib/dimee-edge only"),
        (Tier.DEVICE, ["--set", "outbox.path=/srv/outbox.sqlite"], "may write in /var/lib/dimee-device only"),
        (Tier.CLOUD, ["--set", "channel.tier_key_folder=/srv/keys"], "may write in /var/lib/dimee-cloud only"),
        (Tier.CLOUD, ["--username", "u", "--set", 'mqtt.password_file="password"'], "needs an absolute path"),
    ],
)
def test_settings_that_no_service_could_use_are_refused(
    tier: Tier, arguments: list[str], said: str, tmp_path: Path, dimee: Dimee
) -> None:
    config = tmp_path / "settings.toml"
    dimee("init", tier, "--yes", "--out", config, *(str(tmp_path) if a == "DATA" else a for a in arguments))

    done = dimee("service", "install", "--config", config, "--unit-folder", tmp_path)

    assert done.status == 2
    assert said in done.err
    assert not list(tmp_path.glob("*.service"))


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, dimee: Dimee) -> None:
    config = tmp_path / "cloud.toml"
    dimee("init", "cloud", "--yes", "--out", config)

    done = dimee("service", "install", "--config", config, "--unit-folder", tmp_path / "none")

    assert done.status == 2
    assert "cannot be written" in done.err
