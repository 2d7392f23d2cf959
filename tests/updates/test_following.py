"""What a device does about a rollout, step by step, on the in-process broker: gate, order of tiers, restarts."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest

from common.certificates import files
from common.certificates.releases import make_release_key, sign
from common.config.settings import DeviceSettings, DeviceUpdates, Model, Mqtt, Node, Routing
from common.model.bundle import Bundle
from common.model.manifest import MANIFEST_FILE
from common.model.rollout import Rollout
from common.model.shelf import Shelf
from common.service.presence import Standing
from common.service.trust import bundle_gate, trial_gate
from common.service.updates.fetching import Fetcher
from common.transport.contract import Delivery
from common.transport.loopback import LoopbackBroker, LoopbackTransport
from common.types import Answer, NodeStatus, Reason, Tier
from common.wire.documents import encode_document
from device_agent.beginning import open_first
from device_agent.model import load_model
from device_agent.surroundings import Surroundings
from device_agent.updates import DeviceUpdates as Following
from tests.updates.conftest import TOPICS, published


class Device:
    """A device without its agent: what it would run is ``following.model``."""

    def __init__(self, own: Bundle, folder: Path, transport: Any, *, key: Path | None = None) -> None:
        model = Model(bundle=str(own.directory))
        if key is not None:
            history = str(folder / "releases.json")
            model = Model(bundle=str(own.directory), trusted_key_file=str(key), release_file=history)
        self.settings = DeviceSettings(
            node=Node(id="pi-1"),
            mqtt=Mqtt(),
            model=model,
            routing=Routing(),
            updates=DeviceUpdates(folder=str(folder / "shelf"), window=4),
        )
        self.shelf = Shelf(folder / "shelf")
        self.standing = Standing(revision=own.revision)
        self.following = self._following(transport)
        self.sequence = 0
        self.transport = transport

    def _following(self, transport: Any) -> Following:
        gate = bundle_gate(self.settings.model)
        return Following(
            node="pi-1",
            settings=self.settings,
            shelf=self.shelf,
            fetcher=Fetcher(transport, TOPICS, self.shelf),
            gate=trial_gate(self.settings.model, self.shelf.folder / "history"),
            settle=lambda bundle: gate.check(bundle.directory, (bundle.directory / MANIFEST_FILE).read_bytes()),
            surroundings=Surroundings(),
            standing=self.standing,
            announce=lambda: None,
            is_connected=lambda: True,
            model=load_model(open_first(self.settings), self.settings),
            switch=lambda _model: None,
        )

    @property
    def runs(self) -> str:
        return self.following.model.manifest.revision

    def follow(self, rollout: Rollout) -> None:
        self.following.follow(rollout, lambda: True)

    def answer(self, exits: str) -> None:
        """Show answers of the running revision to the trial; a digit is an exit's layer, ``d`` is degraded."""
        for mark in exits:
            reason = Reason.DEGRADED if mark == "d" else Reason.CONFIDENT
            self.following.note(
                Answer(
                    request_id="r", device_id="pi-1", model_revision=self.runs, reason=reason, label="1",
                    confidence=0.9, exit_layer=1 if mark == "d" else int(mark), exit_tier=Tier.DEVICE,
                    entry_tier=Tier.DEVICE, total_ms=1.0,
                )
            )  # fmt: skip

    def hear(self, status: NodeStatus) -> None:
        """Take a peer's status in."""
        self.following.surroundings.put(Delivery("status", encode_document(status), 0.0))

    def restart(self) -> None:
        self.following = self._following(self.transport)
        self.following.resume()


@pytest.fixture
def transport() -> Iterator[Any]:
    with ExitStack() as stack:
        yield stack.enter_context(LoopbackTransport(LoopbackBroker(), client_id="pi-1"))


@pytest.fixture
def device(old: Bundle, tmp_path: Path, transport: Any) -> Device:
    return Device(old, tmp_path, transport)


def everywhere(transport: Any, bundle: Bundle, previous: Any = None) -> Rollout:
    return Rollout(sequence=1, stable=published(transport, bundle), previous=previous)


def test_a_device_waits_until_every_tier_serves_the_revision(device: Device, new: Bundle) -> None:
    edge = NodeStatus(state="online", tier=Tier.EDGE, node="edge-1", model_revision=device.runs)
    device.hear(edge)
    rollout = everywhere(device.transport, new)

    device.follow(rollout)
    waited = (device.runs, device.standing.update)
    device.hear(msgspec.structs.replace(edge, revisions=(device.runs, new.revision)))
    device.follow(rollout)

    assert waited == (device.standing.revision, "") or waited[0] != new.revision
    assert waited[1] == f"waiting: edge edge-1 must serve {new.revision} first"
    assert device.runs == new.revision


def test_a_device_that_is_alone_switches_and_answers_by_itself(device: Device, new: Bundle) -> None:
    device.hear(NodeStatus(state="offline", tier=Tier.EDGE, node="edge-1", model_revision=device.runs))

    device.follow(everywhere(device.transport, new))

    assert device.runs == new.revision
    assert device.standing.update.startswith("on trial")


def test_too_many_fallbacks_bring_the_old_bundle_back_for_good(device: Device, old: Bundle, new: Bundle) -> None:
    rollout = everywhere(device.transport, new)
    device.follow(rollout)

    device.answer("d")
    device.follow(rollout)
    device.restart()
    device.follow(rollout)

    assert device.runs == old.revision
    assert device.shelf.choice.refused[new.revision] == "1 of 1 answers were degraded or failed"
    assert device.standing.update.startswith(f"refused {new.revision}: 1 of 1")


def test_a_trial_goes_on_after_a_restart_and_ends_if_the_process_keeps_dying(
    device: Device, old: Bundle, new: Bundle
) -> None:
    rollout = everywhere(device.transport, new)
    device.follow(rollout)

    ran = []
    for _ in range(4):
        device.restart()
        device.follow(rollout)
        ran.append(device.runs)

    assert ran == [new.revision] * 3 + [old.revision]
    assert "3 times without finishing its trial" in device.shelf.choice.refused[new.revision]


def test_a_rollback_needs_no_trial_and_no_network(device: Device, old: Bundle, new: Bundle) -> None:
    device.follow(everywhere(device.transport, new))

    device.follow(Rollout(sequence=2))

    assert device.runs == old.revision
    assert not device.shelf.choice.is_on_trial
    assert not list((device.shelf.folder / "bundles").glob("*.part"))


@pytest.fixture
def signer(tmp_path: Path) -> Any:
    pytest.importorskip("cryptography", reason="needs cryptography: pip install 'dimee[security]'")
    return make_release_key(tmp_path)


def test_a_bundle_that_the_trusted_key_did_not_sign_is_refused(
    old: Bundle, new: Bundle, tmp_path: Path, transport: Any, signer: Any
) -> None:
    sign(old.directory, old.manifest.name, 1, files.read_signing_key(signer[0]))
    device = Device(old, tmp_path, transport, key=signer[1])

    device.follow(everywhere(transport, new))

    assert device.runs == old.revision
    assert "is not signed" in device.standing.update


def test_a_canary_does_not_shut_the_way_back_and_a_settled_release_does(
    old: Bundle, new: Bundle, tmp_path: Path, transport: Any, signer: Any
) -> None:
    for number, bundle in ((1, old), (2, new)):
        sign(bundle.directory, bundle.manifest.name, number, files.read_signing_key(signer[0]))
    device = Device(old, tmp_path, transport, key=signer[1])
    release = published(transport, new)

    device.follow(Rollout(sequence=1, candidate=release, share=1.0))
    tried = device.runs
    device.follow(Rollout(sequence=2))
    taken_back = device.runs
    device.follow(Rollout(sequence=3, stable=release))
    device.following.settle(Bundle(device.shelf.bundle(new.revision)))
    device.follow(Rollout(sequence=4, stable=published(transport, old)))

    assert (tried, taken_back) == (new.revision, old.revision)
    assert device.runs == new.revision
    assert "release 1 of" in next(iter(device.shelf.choice.refused.values()))
