"""A running site changes its policy by one retained message; what does not fit is refused and changes nothing."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from brokers import NetworkBroker
from typer.testing import CliRunner

from common.cli.root import app
from common.config.settings import DeviceSettings, Model, Node
from common.engine.choice import routing_table
from common.model.bundle import Bundle, open_bundle
from common.routing.operating_point import OperatingPoint, encode_point
from common.service.lifecycle import Stopping
from common.service.steering import OperatingPoints
from common.transport.contract import Delivery
from common.types import Answer, Reason
from device_agent.agent import Agent
from device_agent.build import start_agent

LIMIT_S = 60.0
TEXT = "the film with a scene and music"


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return open_bundle(tiny_bundle)


def say(points: OperatingPoints, point: OperatingPoint | None) -> bool:
    payload = b"" if point is None else encode_point(point)
    return points.put(Delivery(topic="any", payload=payload, received_at=0.0))


def test_thresholds_change_between_two_questions_and_go_back(bundle: Bundle) -> None:
    points = OperatingPoints()
    policy = points.steer(bundle, "confidence-cascade")
    own = policy.threshold_at(1)

    assert say(points, OperatingPoint(revision=bundle.revision, policy="confidence-cascade", thresholds={1: 0.51}))
    assert policy.threshold_at(1) == 0.51

    assert say(points, None)
    assert policy.threshold_at(1) == own


def test_a_point_that_does_not_fit_changes_nothing(bundle: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    points = OperatingPoints()
    policy = points.steer(bundle, "confidence-cascade")
    own = policy.threshold_at(1)

    for point in (
        OperatingPoint(revision="0123456789abcdef", policy="confidence-cascade", thresholds={1: 0.51}),
        OperatingPoint(revision=bundle.revision, policy="none-such"),
        OperatingPoint(revision=bundle.revision, policy="confidence-cascade", thresholds={3: 0.51}),
    ):
        assert not say(points, point)

    assert policy.threshold_at(1) == own
    assert points.refused == 3
    assert f"for revision 0123456789abcdef; this node runs {bundle.revision}" in caplog.text


def test_a_model_that_is_loaded_later_takes_up_the_point(bundle: Bundle) -> None:
    points = OperatingPoints()
    first = points.steer(bundle, "confidence-cascade")
    say(points, OperatingPoint(revision=bundle.revision, policy="device-only"))

    later = points.steer(bundle, "confidence-cascade")

    assert not first.is_selective
    assert not later.is_selective


def test_one_command_changes_a_running_device(any_broker: NetworkBroker, bundle: Bundle, tmp_path: Path) -> None:
    assert "device-only" in routing_table(bundle).policies
    config = tmp_path / "office.toml"
    config.write_text(f'[node]\nid = "office"\n[mqtt]\nport = {any_broker.port}\nsite = "home"\n')
    settings = DeviceSettings(
        node=Node(id="pi-1"), mqtt=any_broker.settings(site="home"), model=Model(bundle=str(bundle.directory))
    )
    with start_agent(settings, Stopping()) as agent:
        assert agent.transport.wait_connected(LIMIT_S)

        _dimee("model", "operate", "device-only", "--bundle", bundle.directory, "--config", config, "--tier", "device")

        answered = _answer_until(agent, lambda answer: answer.reason is Reason.FINAL)
        assert answered.exit_layer == bundle.manifest.depths.device

        _dimee("model", "operate", "own", "--config", config, "--tier", "device")

        _answer_until(agent, lambda answer: answer.reason is not Reason.FINAL)


def _answer_until(agent: Agent, is_wanted: Any) -> Answer:
    pause, until = threading.Event(), time.monotonic() + LIMIT_S
    while not is_wanted(answer := agent.classify(TEXT)):
        assert time.monotonic() < until, "the point never took effect"
        pause.wait(0.01)
    return answer


def _dimee(*arguments: object) -> None:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exception is None, done.exception
