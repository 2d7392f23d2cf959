"""Settings come from defaults, file and environment, in this order; mistakes are named with their remedy."""

from pathlib import Path

import pytest

from common.config.load import load, origins
from common.config.settings import DeviceSettings, EdgeSettings
from common.errors import ConfigError


def write(directory: Path, text: str) -> Path:
    path = directory / "device.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_environment_wins_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    path = write(tmp_path, '[node]\nid = "pi-1"\n[mqtt]\nport = 1999\nsite = "barn"\n')

    settings = load(DeviceSettings, path, {"DIMEE_MQTT__PORT": "2000"})

    assert (settings.node.id, settings.mqtt.site, settings.mqtt.port, settings.mqtt.host) == (
        "pi-1",
        "barn",
        2000,
        "127.0.0.1",
    )


def test_the_environment_writes_lists_with_commas(tmp_path: Path) -> None:
    path = write(tmp_path, '[node]\nid = "edge-1"\n[worker]\nvariants = ["c"]\n')

    found = [load(EdgeSettings, path, given).worker.variants for given in ({}, {"DIMEE_WORKER__VARIANTS": "a,b"})]

    assert found == [("c",), ("a", "b")]


def test_origins_name_where_each_value_comes_from(tmp_path: Path) -> None:
    path = write(tmp_path, '[node]\nid = "pi-1"\n')

    found = origins(DeviceSettings, path, {"DIMEE_MQTT__PORT": "2000"})

    assert (found["node.id"], found["mqtt.port"], found["mqtt.host"]) == ("file", "DIMEE_MQTT__PORT", "default")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[node]\nid = "a"\n[mqtt]\nprot = 1', "unknown key mqtt.prot; did you mean 'port'"),
        ('[node]\nid = "a"\n[mqt]\nport = 1', "unknown section [mqt]; did you mean 'mqtt'"),
        ('[node]\nid = "a"\n[mqtt]\nport = "no"', "port"),
        ('[node]\nid = "a"\n[mqtt]\nport = 70000', "65535"),
        ("[mqtt]\nport = 1883", "node.id is missing and has no default; set it in the file, or DIMEE_NODE__ID"),
        ("[node]\n", "node.id is missing"),
        ("port = 1", "'port' stands outside a [section]"),
        ("[node", "cannot be read as TOML"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        load(DeviceSettings, write(tmp_path, text), {})

    assert said in str(refusal.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such configuration file"):
        load(DeviceSettings, tmp_path / "none.toml", {})


def test_an_unknown_variable_is_named() -> None:
    with pytest.raises(ConfigError, match=r"DIMEE_LOG__ULR: unknown key log.ulr; did you mean 'url'"):
        load(EdgeSettings, None, {"DIMEE_NODE__ID": "edge-1", "DIMEE_LOG__ULR": "x"})


def test_a_profile_that_is_none_names_the_command_that_makes_one(tmp_path: Path) -> None:
    given = {"DIMEE_NODE__ID": "pi-1", "DIMEE_MODEL__PROFILE_FILE": str(tmp_path / "tiers.toml")}

    with pytest.raises(ConfigError, match=r"FileNotFoundError.*'dimee bench profile --out'"):
        load(DeviceSettings, None, given)

    (tmp_path / "tiers.toml").write_text('[device.settings]\nbundle = "a"\nthreads = 0\ncodec = "int8"\n')
    with pytest.raises(ConfigError, match=r"threads"):
        load(DeviceSettings, None, given)


def test_origins_name_what_the_profile_measured(tmp_path: Path) -> None:
    profile = tmp_path / "tiers.toml"
    profile.write_text('[device.settings]\nbundle = "a"\nthreads = 2\ncodec = "int8"\n')
    path = write(tmp_path, f'[node]\nid = "pi-1"\n[model]\nprofile_file = "{profile}"\nthreads = 1\n')

    found = origins(DeviceSettings, path, {})

    assert (found["model.bundle"], found["device.codec"], found["model.threads"]) == ("profile", "profile", "file")
