"""A machine's settings: written with comments, private where they must be, never half and never over another's."""

import io
import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from common.commands.provision import unique_id
from common.config.document import toml_value, write_settings
from common.config.header import SETTINGS
from common.config.load import load, origins
from common.config.reference import describe
from common.types import TIERS, Tier

Dimee = Callable[..., Any]


@pytest.mark.parametrize("tier", TIERS)
def test_the_written_file_loads_and_sets_only_what_was_chosen(tier: Tier, tmp_path: Path, dimee: Dimee) -> None:
    path = tmp_path / "new" / "node.toml"

    done = dimee("init", tier, "--id", "n-1", "--host", "mini.local", "--site", "barn", "--out", path, "--yes")

    assert done.status == 0, done.err
    settings = load(SETTINGS[tier], path, {})
    assert (settings.node.id, settings.mqtt.host, settings.mqtt.site) == ("n-1", "mini.local", "barn")
    chosen = {key for key, origin in origins(SETTINGS[tier], path, {}).items() if origin == "file"}
    assert chosen - {"log.url"} == {"node.id", "mqtt.host", "mqtt.site"}


@pytest.mark.parametrize("tier", TIERS)
def test_every_setting_stands_in_the_file_with_its_comment_and_default(tier: Tier) -> None:
    text = write_settings(tier, {"node.id": "n-1"})

    for section in describe(SETTINGS[tier]):
        assert f"# {section.summary}\n[{section.name}]\n" in text
        for setting in section.settings:
            (line,) = [line for line in text.splitlines() if line.lstrip("# ").startswith(f"{setting.key} =")][:1]
            assert setting.default is None or toml_value(setting.default) in text
            assert line
            assert setting.remark in text


@pytest.mark.parametrize("tier", TIERS)
def test_uncommenting_every_line_gives_the_defaults(tier: Tier, tmp_path: Path) -> None:
    text = write_settings(tier, {"node.id": "n-1"})
    path = tmp_path / "all.toml"

    path.write_text(re.sub(r"^# (\w+ = [^ #])", r"\1", text, flags=re.MULTILINE), encoding="utf-8")

    written = {key for key, origin in origins(SETTINGS[tier], path, {}).items() if origin == "file"}
    defaults = load(SETTINGS[tier], None, {"DIMEE_NODE__ID": "n-1"})
    assert load(SETTINGS[tier], path, {}) == defaults
    assert {"node.id", "mqtt.port", "model.bundle"} <= written


def test_text_survives_the_way_through_toml() -> None:
    awkward = 'a "quote", \\ back, \t tab, \x00 \x1f \x7f, é, \N{GRINNING FACE}'

    assert tomllib.loads(f"value = {toml_value(awkward)}")["value"] == awkward


def test_the_password_is_private_and_never_in_the_settings(
    tmp_path: Path, dimee: Dimee, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("s3cret\n"))
    path = tmp_path / "edge.toml"

    dimee("init", "edge", "--username", "dimee", "--password-stdin", "--out", path, "--data", tmp_path / "data")

    secret = tmp_path / "mqtt-password"
    assert (secret.read_text(encoding="utf-8"), secret.stat().st_mode & 0o777) == ("s3cret\n", 0o600)
    assert "s3cret" not in path.read_text(encoding="utf-8")
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
    assert load(SETTINGS[Tier.EDGE], path, {}).mqtt.password_file == str(secret)


def test_a_file_that_exists_stays_unless_forced(tmp_path: Path, dimee: Dimee) -> None:
    path = tmp_path / "cloud.toml"
    path.write_text("mine", encoding="utf-8")

    refused = dimee("init", "cloud", "--out", path, "--yes")
    kept = path.read_text(encoding="utf-8")
    forced = dimee("init", "cloud", "--out", path, "--yes", "--force")

    assert (refused.status, kept) == (2, "mine")
    assert "--force" in refused.err
    assert forced.status == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "mqtt.prot=1"], "did you mean mqtt.port?"),
        (["--set", "mqtt.port=0"], "mqtt.port"),
        (["--set", "port=1"], "is no SECTION.KEY=VALUE"),
        (["--id", "a/b"], "node.id: 'a/b' must have"),
        (["--site", "#"], "mqtt.site: '#' must have"),
        (["--data", "x"], "--data and --embedded-broker are for an edge"),
        (["--password-stdin"], "a password needs its user"),
    ],
)
def test_a_mistake_is_named_and_nothing_is_written(
    arguments: list[str], said: str, tmp_path: Path, dimee: Dimee
) -> None:
    done = dimee("init", "device", "--yes", "--out", tmp_path / "device.toml", *arguments)

    assert done.status == 2
    assert said in done.err
    assert list(tmp_path.iterdir()) == []


def test_two_machines_of_one_name_get_different_ids() -> None:
    ids = {unique_id(Tier.DEVICE, "Raspberry Pi.lan") for _ in range(20)}

    assert len(ids) > 15
    assert all(each.startswith("device-raspberry-pi-") for each in ids)


def test_the_enrolment_line_makes_a_board_that_meets_the_edge(tmp_path: Path, dimee: Dimee) -> None:
    edge, board = tmp_path / "edge.toml", tmp_path / "device.toml"
    dimee("init", "edge", "--yes", "--host", "mini.local", "--site", "barn", "--port", "1884", "--out", edge)

    line = dimee("init", "device", "--from", edge).out.split()
    assert line[:3] == ["dimee", "init", "device"]
    done = dimee(*line[1:], "--yes", "--out", board)

    assert done.status == 0, done.err
    mqtt = load(SETTINGS[Tier.DEVICE], board, {}).mqtt
    assert (mqtt.host, mqtt.port, mqtt.site) == ("mini.local", 1884, "barn")


def test_an_embedded_broker_enrols_nobody_else(tmp_path: Path, dimee: Dimee) -> None:
    edge = tmp_path / "edge.toml"
    dimee("init", "edge", "--yes", "--embedded-broker", "--port", "1885", "--out", edge)

    done = dimee("init", "device", "--from", edge)

    assert load(SETTINGS[Tier.EDGE], edge, {}).broker.port == 1885  # type: ignore[union-attr]
    assert done.status == 2
    assert "loopback only" in done.err


def test_a_terminal_is_asked_for_what_the_flags_leave_open(
    tmp_path: Path, dimee: Dimee, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = {"Host of the MQTT broker": "mini.local", "MQTT user (empty for none)": "dimee", "Password": "s3cret"}

    def prompt(question: str, default: object = "", **_: object) -> object:
        return answers.get(question, default)

    monkeypatch.setattr(typer, "prompt", prompt)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    path = tmp_path / "device.toml"

    dimee("init", "device", "--out", path)

    mqtt = load(SETTINGS[Tier.DEVICE], path, {}).mqtt
    assert (mqtt.host, mqtt.port, mqtt.username) == ("mini.local", 1883, "dimee")
    assert Path(mqtt.password_file or "").read_text(encoding="utf-8") == "s3cret\n"
