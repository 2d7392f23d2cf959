"""Fixtures for all tests: a real Mosquitto, the embedded broker, both by turns, and a tiny bundle."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from brokers import Embedded, Loopback, Mosquitto, NetworkBroker, mosquitto_path
from hypothesis import HealthCheck, settings

pytest_plugins = ["tiny"]
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


def pytest_configure() -> None:
    """Let what the tests start hear SIGINT: a shell starts its jobs in the background with the signal ignored."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def make_mosquitto(tmp_path: Path) -> Callable[..., Mosquitto]:
    """Make a Mosquitto that is not started yet, with lines of configuration of one's own."""
    mosquitto_path()
    return lambda *lines: Mosquitto(tmp_path, *lines)


@pytest.fixture
def mosquitto(make_mosquitto: Callable[..., Mosquitto]) -> Iterator[Mosquitto]:
    """A real Mosquitto on a free loopback port; mark the test ``broker``."""
    with make_mosquitto() as running:
        yield running


@pytest.fixture
def embedded_broker() -> Iterator[Embedded]:
    """The embedded broker on a free loopback port."""
    with Embedded() as running:
        yield running


@pytest.fixture(params=["embedded", pytest.param("mosquitto", marks=pytest.mark.broker)])
def any_broker(request: pytest.FixtureRequest) -> NetworkBroker:
    """Each broker that other processes can reach."""
    name = "embedded_broker" if request.param == "embedded" else request.param
    broker: NetworkBroker = request.getfixturevalue(name)
    return broker


@pytest.fixture(params=["loopback", "embedded", pytest.param("mosquitto", marks=pytest.mark.broker)])
def medium(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Each way to bring messages from one transport to another."""
    if request.param == "loopback":
        with Loopback() as running:
            yield running
    else:
        name = "embedded_broker" if request.param == "embedded" else request.param
        yield request.getfixturevalue(name)
