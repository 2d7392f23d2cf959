"""A fleet of real processes on a real Mosquitto, updated while it answers."""

import json
import queue
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest

from common.cli.root import app
from common.commands.fleet import Broker, Fleet
from common.model.bundle import Bundle, open_bundle
from common.model.shelf import Shelf
from common.transport.contract import Inbox
from common.types import NodeStatus, Tier
from common.wire.documents import decode_status
from tests.updates.conftest import TOPICS, make_sibling, published

pytestmark = [pytest.mark.e2e, pytest.mark.broker]
LIMIT_S = 60.0
IN_FLIGHT = 8
WINDOW = 40


@pytest.fixture
def fleet(mosquitto: Any, old: Bundle, tmp_path: Path) -> Iterator[Fleet]:
    """Device, edge and cloud that take updates."""
    with ExitStack() as stack:
        broker = Broker(host=mosquitto.host, port=mosquitto.port)
        fleet = Fleet(directory=tmp_path, broker=broker, site="house", bundle=str(old.directory), stack=stack)
        for tier, node in ((Tier.CLOUD, "cloud-1"), (Tier.EDGE, "edge-1")):
            own = {"DIMEE_UPDATES__FOLDER": f"{tmp_path}/{node}", "DIMEE_LOG__URL": f"sqlite:///{tmp_path}/log.sqlite"}
            fleet.start(tier, node, own if tier is Tier.EDGE else {"DIMEE_UPDATES__FOLDER": f"{tmp_path}/{node}"})
        start_device(fleet, tmp_path)
        fleet.wait_online("pi-1", "edge-1", "cloud-1")
        yield fleet


def start_device(fleet: Fleet, tmp_path: Path) -> subprocess.Popen[bytes]:
    own = {"DIMEE_UPDATES__FOLDER": f"{tmp_path}/pi-1", "DIMEE_UPDATES__WINDOW": str(WINDOW)}
    own["DIMEE_DEVICE__BUDGET_MS"] = str(LIMIT_S * 1000)  # a degraded answer would end a trial
    return fleet.start_device("pi-1", own)


class Load:
    """Keeps a device busy: for every answer a new text, until it is told to end."""

    def __init__(self, device: subprocess.Popen[bytes]) -> None:
        self.answers: list[dict[str, Any]] = []
        self.sent = 0
        self._device = device
        self._seen: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._is_ending = False
        self._reader = threading.Thread(target=self._read)
        for _ in range(IN_FLIGHT):
            self._ask()
        self._reader.start()

    def until(self, is_enough: Callable[[dict[str, Any]], bool], times: int = 1) -> None:
        """Wait until so many answers are as wanted."""
        while times:
            times -= is_enough(self._seen.get(timeout=LIMIT_S))

    def end(self) -> list[dict[str, Any]]:
        """Ask nothing more and give all answers."""
        self._is_ending = True
        self._reader.join(LIMIT_S)
        return self.answers

    def _ask(self) -> None:
        assert self._device.stdin is not None
        self.sent += 1
        line = {"id": str(self.sent), "text": ("a fine warm film", "the dull plot", "a cast with music")[self.sent % 3]}
        self._device.stdin.write(json.dumps(line).encode() + b"\n")
        self._device.stdin.flush()

    def _read(self) -> None:
        assert self._device.stdout is not None
        while len(self.answers) < self.sent:
            self.answers.append(json.loads(self._device.stdout.readline()))
            self._seen.put(self.answers[-1])
            if not self._is_ending:
                self._ask()


@pytest.fixture
def operator(mosquitto: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs 'dimee model ...' as the site's operator."""
    monkeypatch.setenv("DIMEE_NODE__ID", "office")
    monkeypatch.setenv("DIMEE_MQTT__PORT", str(mosquitto.port))
    monkeypatch.setenv("DIMEE_MQTT__SITE", "house")
    return lambda *arguments: app(["model", *arguments, "--tier", "device"], standalone_mode=False)


def wait_status(mosquitto: Any, node: str, is_as_wanted: Callable[[NodeStatus], bool]) -> NodeStatus:
    inbox = Inbox(1000)
    with mosquitto.transport("watcher") as watcher:
        watcher.subscribe(TOPICS.status("+", node), inbox)
        while True:
            delivery = inbox.get(LIMIT_S)
            assert delivery is not None, f"{node} did not come to it"
            if is_as_wanted(status := decode_status(delivery.payload)):
                return status


def check_exactly_one_answer_each(answers: list[dict[str, Any]], sent: int) -> None:
    assert sorted(int(answer["id"]) for answer in answers) == list(range(1, sent + 1))
    assert {answer["reason"] for answer in answers} <= {"confident", "final"}, "an update degrades nothing"


def test_an_update_under_load_loses_no_request(
    fleet: Fleet, mosquitto: Any, operator: Callable[..., None], old: Bundle, new: Bundle
) -> None:
    load = Load(fleet.processes["pi-1"])
    load.until(lambda answer: answer["model_revision"] == old.revision, times=20)

    operator("publish", str(new.directory), "--stage", "all")
    load.until(lambda answer: answer["model_revision"] == new.revision, times=WINDOW)
    status = wait_status(mosquitto, "pi-1", lambda status: status.update == "")
    operator("rollback")
    load.until(lambda answer: answer["model_revision"] == old.revision, times=20)
    answers = load.end()

    check_exactly_one_answer_each(answers, load.sent)
    assert status.model_revision == new.revision
    assert Shelf(fleet.directory / "pi-1").choice.proven == (new.revision,)


def test_a_canary_that_misbehaves_is_left_by_itself_and_not_tried_again(
    fleet: Fleet,
    mosquitto: Any,
    operator: Callable[..., None],
    old: Bundle,
    tiny_bundle: Path,
) -> None:
    boastful = make_sibling(open_bundle(tiny_bundle), fleet.directory / "boastful", threshold=1.0, record_scale=1000.0)
    load = Load(fleet.processes["pi-1"])

    operator("publish", str(boastful.directory), "--stage", "canary", "--devices", "100%")
    load.until(lambda answer: answer["model_revision"] == boastful.revision)
    status = wait_status(mosquitto, "pi-1", lambda status: status.update.startswith("refused"))
    load.until(lambda answer: answer["model_revision"] == old.revision, times=20)
    operator("publish", str(boastful.directory), "--stage", "canary", "--devices", "50%")
    operator("publish", str(boastful.directory), "--stage", "canary", "--devices", "100%")
    wait_status(mosquitto, "edge-1", lambda status: boastful.revision in status.served)
    load.until(lambda answer: answer["model_revision"] == old.revision, times=WINDOW)
    answers = load.end()

    check_exactly_one_answer_each(answers, load.sent)
    assert status.model_revision == old.revision
    assert "its exits drifted by" in status.update
    tried = [answer for answer in answers if answer["model_revision"] == boastful.revision]
    assert len(tried) >= WINDOW
    last = max(answers.index(answer) for answer in tried)
    assert len(answers) - last > WINDOW, "it was not tried again"


def test_a_bundle_with_a_flipped_bit_is_refused_by_every_node(
    fleet: Fleet, mosquitto: Any, operator: Callable[..., None], old: Bundle, new: Bundle
) -> None:
    operator("publish", str(new.directory), "--stage", "canary", "--devices", "0.0001%")  # edge and cloud alone
    wait_status(mosquitto, "edge-1", lambda status: new.revision in status.served)
    operator("rollback")
    wait_status(mosquitto, "edge-1", lambda status: status.served == (old.revision,))
    with mosquitto.transport("overseer") as overseer:
        assert overseer.wait_connected(LIMIT_S)
        release = published(overseer, new, spoil=True)
        document = {"sequence": release.sequence, "stable": release}
        overseer.publish(TOPICS.rollout, msgspec.json.encode(document), is_retained=True)
        for node in ("pi-1", "edge-1", "cloud-1"):
            status = wait_status(mosquitto, node, lambda status: status.update.startswith("refused"))
            assert "is not what was announced" in status.update
            assert status.served == (old.revision,)

    load = Load(fleet.processes["pi-1"])
    load.until(lambda answer: answer["model_revision"] == old.revision, times=10)
    check_exactly_one_answer_each(load.end(), load.sent)


def test_a_device_killed_during_a_trial_begins_with_a_whole_bundle(
    fleet: Fleet, mosquitto: Any, operator: Callable[..., None], new: Bundle, tmp_path: Path
) -> None:
    operator("publish", str(new.directory), "--stage", "all")
    wait_status(mosquitto, "pi-1", lambda status: status.update.startswith("on trial"))
    fleet.processes["pi-1"].kill()
    fleet.processes["pi-1"].wait(LIMIT_S)
    embedding = Shelf(tmp_path / "pi-1").bundle(new.revision) / new.manifest.embedding
    embedding.write_bytes(embedding.read_bytes()[:-100])  # as a disk that lied about its writes

    device = start_device(fleet, tmp_path)
    load = Load(device)
    load.until(lambda answer: answer["reason"] != "failed", times=5)
    answers = load.end()

    assert {answer["model_revision"] for answer in answers} != {new.revision}
    assert "is altered" in Shelf(tmp_path / "pi-1").choice.refused[new.revision]
