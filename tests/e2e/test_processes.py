"""Each tier by its own command, over a real broker: applications, strangers, and starts in any order."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from common.commands.fleet import Broker, Fleet
from common.errors import ConfigError
from common.transport.contract import Inbox
from common.types import Tier
from common.wire.topics import Topics

pytestmark = pytest.mark.e2e
LIMIT_S = 60.0


@pytest.fixture
def fleet(any_broker: Any, tiny_bundle: Path, tmp_path: Path) -> Iterator[Fleet]:
    """An empty site on each broker."""
    with ExitStack() as stack:
        yield Fleet(
            directory=tmp_path,
            broker=Broker(host=any_broker.host, port=any_broker.port),
            site="house",
            bundle=str(tiny_bundle),
            stack=stack,
        )


def start_all(fleet: Fleet, tmp_path: Path, *, policy: str = "cloud-only") -> subprocess.Popen[bytes]:
    chosen = {"DIMEE_ROUTING__POLICY": policy}
    device = fleet.start_device("pi-1", chosen | {"DIMEE_DEVICE__BUDGET_MS": str(LIMIT_S * 1000)})
    fleet.start(Tier.CLOUD, "cloud-1", chosen)
    fleet.start(Tier.EDGE, "edge-1", chosen | {"DIMEE_LOG__URL": f"sqlite:///{tmp_path}/log.sqlite"})
    fleet.wait_online("pi-1", "cloud-1", "edge-1")
    return device


def finish(device: subprocess.Popen[bytes]) -> list[dict[str, Any]]:
    output, _ = device.communicate(timeout=LIMIT_S)
    assert device.returncode == 0
    return [json.loads(line) for line in output.splitlines()]


def test_an_application_gets_its_answer_as_json(fleet: Fleet, any_broker: Any, tmp_path: Path) -> None:
    start_all(fleet, tmp_path)
    topics, answers = Topics("house"), Inbox(10)
    with any_broker.transport("application") as application:
        application.subscribe(topics.answer("pi-1"), answers)
        assert application.wait_connected(LIMIT_S)

        application.publish(topics.input("pi-1"), b"a fine film")
        plain = answers.get(LIMIT_S)
        application.publish(topics.input("pi-1"), b'{"text": "a dull plot", "id": "mine"}')
        named = answers.get(LIMIT_S)
        application.publish(topics.input("pi-1"), b"\xff\xfe")  # refused, and nothing stops
        undecodable = answers.get(LIMIT_S)
        application.publish(topics.input("pi-1"), b'{"text": "", "id": "empty"}')
        refused = answers.get(LIMIT_S)

    assert plain is not None
    assert named is not None
    assert undecodable is not None
    assert refused is not None
    assert json.loads(plain.payload)["exit_tier"] == "cloud"
    assert json.loads(named.payload)["id"] == "mine"
    assert "not valid UTF-8 at byte 0" in json.loads(undecodable.payload)["error"]
    assert "empty" in json.loads(refused.payload)["error"]


def test_bad_bytes_stop_no_tier_and_lose_nothing(fleet: Fleet, any_broker: Any, tmp_path: Path) -> None:
    device = start_all(fleet, tmp_path)
    topics = Topics("house")
    with any_broker.transport("stranger") as stranger:
        assert stranger.wait_connected(LIMIT_S)
        for topic in (topics.request(Tier.EDGE), topics.request(Tier.CLOUD), topics.log, topics.outcome("pi-1")):
            for payload in (b"", b"\xc1", b"{}", b"\x93" * 50_000):
                stranger.publish(topic, payload)
        assert device.stdin is not None
        device.stdin.write(b"a fine film\n\n\xff\xff\na warm scene\n")
        device.stdin.flush()

        answers = finish(device)

    assert [answer["reason"] for answer in answers if "reason" in answer] == ["final", "final"]
    errors = [answer["error"] for answer in answers if "error" in answer]
    assert len(errors) == 2  # the empty line, and the one that is no UTF-8


def test_a_tier_that_cannot_start_says_why_in_one_line(fleet: Fleet) -> None:
    fleet.start(Tier.EDGE, "edge-1", {"DIMEE_ROUTING__POLICY": "none-such"})

    with pytest.raises(
        ConfigError, match=r"edge-1 stopped at its start: dimee: routing.policy: 'none-such' is not one of"
    ):
        fleet.wait_online("edge-1")


@pytest.mark.parametrize(
    ("environment", "arguments", "said"),
    [
        ({}, ["edge", "run"], "node.id is missing"),
        ({"DIMEE_NODE__ID": "a/b"}, ["cloud", "run"], "node.id: 'a/b' must have 1-64 characters"),
        ({"DIMEE_NODE__ID": "a", "DIMEE_MODEL__BUNDLE": "/nowhere"}, ["cloud", "run"], "'/nowhere' is no directory"),
        (
            {"DIMEE_NODE__ID": "a", "DIMEE_MQTT__PRT": "1"},
            ["device", "run"],
            "unknown key mqtt.prt; did you mean 'port'?",
        ),
        (
            {"DIMEE_NODE__ID": "a", "DIMEE_MQTT__USERNAME": "u", "DIMEE_MQTT__PASSWORD_FILE": "/no/file"},
            ["device", "run"],
            "/no/file",
        ),
    ],
)
def test_a_wrong_setting_ends_a_start_with_one_line(
    environment: dict[str, str], arguments: list[str], said: str, tiny_bundle: Path
) -> None:
    environment = {"DIMEE_MODEL__BUNDLE": str(tiny_bundle), **environment}
    command = [sys.executable, "-m", "common.cli", *arguments]
    done = subprocess.run(
        command, env={"PATH": "/usr/bin", **environment}, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )

    assert done.returncode == 2
    assert said in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr
