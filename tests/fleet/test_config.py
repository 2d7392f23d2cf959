"""The settings in force, with their origin and without their secrets."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Dimee = Callable[..., Any]


@pytest.fixture
def edge_file(tmp_path: Path, dimee: Dimee) -> Path:
    path = tmp_path / "edge.toml"
    dimee("init", "edge", "--yes", "--id", "edge-1", "--site", "barn", "--out", path)
    return path


def test_each_value_stands_with_its_origin(edge_file: Path, dimee: Dimee, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIMEE_MQTT__PORT", "1999")

    rows = {row["key"]: row for row in dimee("config", "show", "--config", edge_file, "--json").document}

    assert (rows["mqtt.port"]["value"], rows["mqtt.port"]["origin"]) == (1999, "DIMEE_MQTT__PORT")
    assert (rows["mqtt.site"]["value"], rows["mqtt.site"]["origin"]) == ("barn", "file")
    assert rows["mqtt.host"]["origin"] == "default"
    assert "1 to 65535" in rows["mqtt.port"]["remark"]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql+psycopg://dimee:s3cret@db/log", "postgresql+psycopg://dimee:***@db/log"),
        ("postgresql+psycopg://dimee:s3:c@ret@db/log", "postgresql+psycopg://dimee:***@db/log"),
        ("postgresql://db/log?user=a&password=s3cret&x=1", "postgresql://db/log?user=a&password=***&x=1"),
        ("sqlite:////var/lib/dimee/log.sqlite", "sqlite:////var/lib/dimee/log.sqlite"),
    ],
)
def test_a_password_in_a_url_is_masked(
    url: str, shown: str, edge_file: Path, dimee: Dimee, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIMEE_LOG__URL", url)

    plain = dimee("config", "show", "--config", edge_file)
    rows = {row["key"]: row for row in dimee("config", "show", "--config", edge_file, "--json").document}

    assert rows["log.url"]["value"] == shown
    assert shown in plain.out
    assert "s3" not in plain.out


def test_check_names_the_mistake(edge_file: Path, dimee: Dimee) -> None:
    good = dimee("config", "check", "--config", edge_file)
    edge_file.write_text(edge_file.read_text(encoding="utf-8").replace("# keepalive_s = 30", "keepalive = 30"))
    bad = dimee("config", "check", "--config", edge_file)

    assert (good.status, bad.status) == (0, 2)
    assert "did you mean 'keepalive_s'?" in bad.err


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("schema = 2", "schema = 3", "schema 3 is of a newer release, this one knows up to 2; upgrade dimee"),
        ("schema = 2", "schema = 0", "schema"),
        ('tier = "edge"', 'tier = "moon"', "moon"),
        ('tier = "edge"', 'teir = "edge"', "'teir' stands outside a [section]"),
        ('tier = "edge"', "", "does not say whose settings"),
    ],
)
def test_a_wrong_header_is_named(old: str, new: str, said: str, edge_file: Path, dimee: Dimee) -> None:
    edge_file.write_text(edge_file.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")

    done = dimee("config", "check", "--config", edge_file)

    assert done.status == 2
    assert said in done.err


def test_a_file_of_another_tier_is_refused(edge_file: Path, dimee: Dimee) -> None:
    done = dimee("config", "check", "--config", edge_file, "--tier", "device")

    assert done.status == 2
    assert "the settings of tier 'edge'" in done.err
