"""Files of an earlier schema run on with a line of advice, and are rewritten whole, with a backup, or not at all."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.config.load import load
from common.config.settings import EdgeSettings

Dimee = Callable[..., Any]
FIRST = """\
# Settings of dimee's edge.
schema = 1  # of this file
tier = "edge"

# Who this process is.
[node]
id = "edge-1"    # the mini PC

[mqtt]
port = 1999      # not the usual one
# connect_timeout_s = 10.0                    # how long a start waits for the first connection; above 0

[routing]
# my own remark
policy = "default"
cost = "paper"                                # cost model of the log
"""
SECOND = """\
# Settings of dimee's edge.
schema = 2  # of this file
tier = "edge"

# Who this process is.
[node]
id = "edge-1"    # the mini PC

[mqtt]
port = 1999      # not the usual one

[routing]
# my own remark
policy = "default"
"""


@pytest.fixture
def first(tmp_path: Path) -> Path:
    path = tmp_path / "edge.toml"
    path.write_text(FIRST, encoding="utf-8")
    path.chmod(0o640)
    return path


def test_a_migrated_file_keeps_comments_and_mode_and_leaves_a_backup(first: Path, dimee: Dimee) -> None:
    done = dimee("config", "migrate", first, "--json")

    backup = first.with_name("edge.toml.bak")
    assert done.document == {
        "file": str(first),
        "backup": str(backup),
        "changes": ["schema 1 becomes 2", "routing.cost is gone: no tier read it"],
    }
    assert first.read_text(encoding="utf-8") == SECOND
    assert backup.read_text(encoding="utf-8") == FIRST
    assert first.stat().st_mode & 0o777 == backup.stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in first.parent.iterdir()) == ["edge.toml", "edge.toml.bak"]


def test_an_older_file_is_understood_and_every_command_says_so(first: Path, dimee: Dimee, caplog: Any) -> None:
    settings = load(EdgeSettings, first, {})
    done = dimee("config", "check", "--config", first)

    assert settings.mqtt.port == 1999
    assert done.status == 0
    advice = f"routing.cost is gone: no tier read it; 'dimee config migrate {first}' rewrites it"
    assert [advice in record.getMessage() for record in caplog.records] == [True, True]
    assert first.read_text(encoding="utf-8") == FIRST


def test_a_file_of_this_release_is_left_alone(first: Path, dimee: Dimee) -> None:
    first.write_text(SECOND, encoding="utf-8")

    done = dimee("config", "migrate", first)

    assert (done.status, done.out) == (0, f"{first}: nothing to change\n")
    assert not first.with_name("edge.toml.bak").exists()


def test_a_hand_written_file_without_a_schema_loses_the_key_alone(first: Path, dimee: Dimee) -> None:
    first.write_text('[node]\nid = "edge-1"\n[routing]\ncost = "paper"\n', encoding="utf-8")

    done = dimee("config", "migrate", first)

    assert done.status == 0
    assert first.read_text(encoding="utf-8") == '[node]\nid = "edge-1"\n[routing]\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('schema = 1\nrouting = {cost = "paper"}\n[node]\nid = "a"\n', "cannot be migrated line by line"),
        ('schema = 1\ntier = "edge"\n[node]\nid = "a"\n[mqtt]\nprot = 1\n', "not written: unknown key mqtt.prot"),
        ('schema = 7\n[node]\nid = "a"\n', "schema 7 is of a newer release"),
        ("schema = 1\n[node", "cannot be read as TOML"),
    ],
)
def test_what_cannot_be_migrated_stays_as_it_is(text: str, said: str, first: Path, dimee: Dimee) -> None:
    first.write_text(text, encoding="utf-8")

    done = dimee("config", "migrate", first)

    assert done.status == 2
    assert said in done.err
    assert first.read_text(encoding="utf-8") == text
    assert list(first.parent.iterdir()) == [first]


def test_a_backup_is_never_overwritten(first: Path, dimee: Dimee) -> None:
    first.with_name("edge.toml.bak").write_text("mine", encoding="utf-8")

    done = dimee("config", "migrate", first)

    assert done.status == 2
    assert "edge.toml.bak exists and is not overwritten" in done.err
    assert first.read_text(encoding="utf-8") == FIRST
