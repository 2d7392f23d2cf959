"""The trusted core: what comes sealed is opened, computed on and sealed again in a process with few rights."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from common.bench.security.attacks import REPLY_TOPIC, Ends
from common.certificates.authority import Authority
from common.commands.machine_checks import check_core
from common.config.settings import AnySettings, Channel, CloudSettings, EdgeSettings, Model, Node, Routing, Worker
from common.errors import ConfigError, CrashError, WireError
from common.model.bundle import open_bundle
from common.service.core.client import Core, open_core
from common.service.core.confinement import offered
from common.service.core.node import peek_stored
from common.service.presence import Standing, presence
from common.types import Answer, Reason, Record, Tier
from common.wire import codec
from common.wire.activations import codec as activation_codec
from common.wire.messages import Failure, HiddenStates, LogRecord, Outcome, Receipt
from common.wire.tensors import pack
from common.wire.topics import Topics

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the core needs Linux")
ROOT = Path(__file__).parents[2]
TOPICS = Topics("home")
OWN = b"\0"  # the sealed body is the device's own request, and not forwarded


class Site:
    """A core of the edge, and a device that seals to it."""

    def __init__(self, authority: Authority, bundle: Path) -> None:
        for tier in (Tier.EDGE, Tier.CLOUD):
            authority.rotate_seal(tier)
        self.authority = authority
        self.manifest = open_bundle(str(bundle)).manifest
        self.bundle = bundle
        self.ends = Ends(authority)

    def settings(self, **overrides: object) -> EdgeSettings:
        own = self.authority.folder / "nodes" / "edge-1"
        channel = {
            "name": "sealed",
            "has_core": True,
            "ca_file": str(own / "ca.pem"),
            "certificate_file": str(own / "certificate.pem"),
            "key_file": str(own / "key.pem"),
            "tier_key_folder": str(self.authority.folder / "tiers" / "edge"),
        }
        return EdgeSettings(
            node=Node(id="edge-1"),
            model=Model(bundle=str(self.bundle)),
            routing=Routing(policy="edge-only"),
            channel=Channel(**{**channel, **overrides}),
        )

    def request(self, request_id: str = "r1", budget_ms: float = 5000.0) -> HiddenStates:
        hidden = np.random.default_rng(0).normal(size=(5, self.manifest.hidden_size)).astype(np.float32)
        return HiddenStates(
            request_id=request_id,
            device_id="pi-1",
            model_revision=self.manifest.revision,
            split_point=0,
            budget_ms=budget_ms,
            codec="float32",
            tensors=activation_codec("float32").encode(hidden),
        )

    def tokens(self, *ids: int) -> HiddenStates:
        tensors = (pack(np.array(ids, np.uint16)),)
        return msgspec.structs.replace(self.request(), codec="tokens", tensors=tensors)

    def sealed(self, message: HiddenStates) -> bytes:
        return self.ends.session.seal(TOPICS.request(Tier.EDGE), OWN + codec.encode(message))

    def record(self) -> bytes:
        answer = Answer(
            request_id="r9",
            device_id="pi-1",
            model_revision=self.manifest.revision,
            reason=Reason.CONFIDENT,
            label="good",
            confidence=0.5,
            exit_layer=1,
            exit_tier=Tier.DEVICE,
            entry_tier=Tier.DEVICE,
            total_ms=1.0,
        )
        return codec.encode(LogRecord(record=Record(answer=answer, created_at=1.0)))


@pytest.fixture
def core_site(authority: Authority, tiny_bundle: Path) -> Site:
    return Site(authority, tiny_bundle)


@pytest.fixture
def core(core_site: Site) -> Iterator[Core]:
    with Core(core_site.settings(), Tier.EDGE) as running:
        yield running


def test_a_sealed_request_comes_back_as_a_sealed_outcome(core: Core, core_site: Site) -> None:
    stored = core.store(TOPICS.request(Tier.EDGE), core_site.sealed(core_site.request()), time.monotonic())

    computed = core.compute((stored.handle,))
    topic, payload = core.result(*computed.handles)

    label, body = core_site.ends.session.open(topic, payload)
    outcome = codec.decode(body)
    assert (topic, label) == (REPLY_TOPIC, "r1")
    assert isinstance(outcome, Outcome)
    assert (outcome.request_id, outcome.hops[-1].node) == ("r1", "edge-1")
    assert (stored.device_id, stored.budget_ms) == ("pi-1", 5000.0)
    assert computed.counters["answered"] == 1


@pytest.mark.parametrize(("ids", "answered"), [((2, 4, 3), 1), ((2, 999, 3), 0)])
def test_a_core_that_takes_tokens_answers_those_it_knows(core_site: Site, ids: tuple[int, ...], answered: int) -> None:
    settings = msgspec.structs.replace(core_site.settings(), worker=Worker(takes_tokens=True))
    with Core(settings, Tier.EDGE) as core:
        stored = core.store(TOPICS.request(Tier.EDGE), core_site.sealed(core_site.tokens(*ids)), time.monotonic())
        computed = core.compute((stored.handle,))
        topic, payload = core.result(*computed.handles)

    _, body = core_site.ends.session.open(topic, payload)
    assert isinstance(codec.decode(body), Outcome if answered else Failure)
    assert (computed.counters.get("answered", 0), computed.counters.get("refused", 0)) == (answered, 1 - answered)


def test_a_request_that_the_edge_is_unsure_of_leaves_sealed_for_the_cloud(core_site: Site) -> None:
    settings = core_site.settings()
    unsure = EdgeSettings(
        node=settings.node, model=settings.model, routing=Routing(policy="cloud-only"), channel=settings.channel
    )
    cloud = core_site.authority.folder / "tiers" / "cloud" / "certificate.pem"
    announced = "".join(cloud.read_text().splitlines()[1:-1])
    standing = Standing(revision=core_site.manifest.revision)
    status = presence(Tier.CLOUD, "cloud-1", TOPICS, standing, tier_key=announced)

    with Core(unsure, Tier.EDGE) as core:
        core.store(status.topic, status.online(), time.monotonic())
        stored = core.store(TOPICS.request(Tier.EDGE), core_site.sealed(core_site.request()), time.monotonic())
        topic, payload = core.result(*core.compute((stored.handle,)).handles)

    assert topic == TOPICS.request(Tier.CLOUD)
    assert payload.startswith(b"dSQ1")


def test_a_stored_request_never_leaves(core: Core, core_site: Site) -> None:
    stored = core.store(TOPICS.request(Tier.EDGE), core_site.sealed(core_site.request()), time.monotonic())

    with pytest.raises(WireError, match="holds nothing that may leave"):
        core.result(stored.handle)


def test_the_caller_cannot_have_an_answer_of_its_own_sealed(core: Core, core_site: Site) -> None:
    core.store(TOPICS.request(Tier.EDGE), core_site.sealed(core_site.request()), time.monotonic())
    forged = Outcome(
        request_id="r1",
        model_revision=core_site.manifest.revision,
        reason=Reason.FINAL,
        logits=(1.0, 0.0),
        confidence=1.0,
        exit_layer=1,
        threshold=None,
        hops=(),
    )

    with pytest.raises(WireError, match="only receipts"):
        core.store(REPLY_TOPIC, codec.encode(forged), time.monotonic())


def test_records_come_out_for_the_log_and_receipts_go_back_sealed(core: Core, core_site: Site) -> None:
    sealed = core_site.ends.session.seal(TOPICS.log, OWN + core_site.record())

    _, record = core.result(core.store(TOPICS.log, sealed, time.monotonic()).handle)
    receipt = core.store(REPLY_TOPIC, codec.encode(Receipt(request_ids=("r9",))), time.monotonic())
    topic, payload = core.result(receipt.handle)

    assert record == core_site.record()
    assert codec.decode(core_site.ends.session.open(topic, payload)[1]) == Receipt(request_ids=("r9",))


def test_an_altered_message_is_refused_and_counted(core: Core, core_site: Site) -> None:
    sealed = bytearray(core_site.sealed(core_site.request()))
    sealed[-1] ^= 1

    stored = core.store(TOPICS.request(Tier.EDGE), bytes(sealed), time.monotonic())

    assert stored.handle == 0
    assert stored.counters["refused_forged"] == 1


def test_the_shared_region_is_wiped_by_whoever_read_it(core: Core, core_site: Site) -> None:
    sealed = core_site.sealed(core_site.request())

    core.store(TOPICS.request(Tier.EDGE), sealed, time.monotonic())

    assert not any(core._wire._region[: len(sealed)])


def test_what_the_core_says_of_its_confinement_is_what_the_kernel_says(core: Core) -> None:
    status = Path(f"/proc/{core._process.pid}/status").read_text()

    in_force = set(core.ready.confinement)
    assert ("no new privileges" in in_force) == bool(re.search(r"NoNewPrivs:\s*1", status))
    assert ("seccomp" in in_force) == bool(re.search(r"Seccomp:\s*2", status))
    assert ("memory locked" in in_force) == (not re.search(r"VmLck:\s*0 kB", status))
    assert offered()["seccomp"] <= ("seccomp" in in_force)
    assert offered()["landlock"] <= ("landlock" in in_force)


def test_a_confined_process_reaches_neither_files_nor_network_nor_other_processes() -> None:
    program = """
import os, socket, subprocess, sys, threading
from common.service.core.confinement import confine
threading.Thread(target=int).start()
in_force = confine(None)
ways = {
    "read": lambda: open("/etc/hostname"), "write": lambda: open("/tmp/x", "w"), "connect": lambda: socket.socket(),
    "fork": os.fork, "execute": lambda: os.execv("/bin/true", ["true"]), "signal": lambda: os.kill(os.getppid(), 0),
}
for name, way in ways.items():
    try:
        way()
        print(name)
    except PermissionError:
        pass
thread = threading.Thread(target=print, args=("seccomp" if "seccomp" in in_force else "none",))
thread.start()
thread.join()
"""
    said = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split()

    if said[-1] == "none":
        pytest.skip("this kernel has no seccomp for this architecture")
    assert said == ["seccomp"]


def test_a_core_that_dies_ends_the_work(core: Core) -> None:
    os.kill(core._process.pid, signal.SIGKILL)
    core._process.wait()

    with pytest.raises(CrashError, match="trusted core is gone"):
        core.compute(())


@pytest.mark.parametrize(
    ("channel", "complaint"),
    [({"name": "plain"}, "needs channel.name = 'sealed'"), ({"core_user": "no-such-user"}, "cannot become")],
)
def test_a_core_that_cannot_be_is_explained(core_site: Site, channel: dict[str, str], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        open_core(core_site.settings(**channel), Tier.EDGE)


def test_an_altered_bundle_is_refused_by_the_core(core_site: Site, tmp_path: Path) -> None:
    settings: AnySettings = CloudSettings(node=Node(id="cloud-1"), model=Model(bundle=str(tmp_path)))
    assert isinstance(settings, CloudSettings)
    sealed = CloudSettings(node=settings.node, model=settings.model, channel=core_site.settings().channel)

    with pytest.raises(Exception, match=r"is no bundle"):
        open_core(sealed, Tier.CLOUD)


def test_doctor_says_what_would_confine_the_core(core_site: Site) -> None:
    (finding,) = check_core(core_site.settings())

    assert finding.check == "trusted core"
    assert ("landlock" in finding.detail) is True
    assert finding.state == (
        "ok" if all(offered()[name] for name in ("landlock", "seccomp", "memory locked")) else "warning"
    )


def test_a_stored_requests_place_in_the_queue_is_known_without_its_contents() -> None:
    known = peek_stored(b'{"type":"Stored","handle":1,"device_id":"pi-1","budget_ms":5.0,"is_retry":true}')

    assert (known.device_id, known.budget_ms, known.is_retry) == ("pi-1", 5.0, True)


def test_the_outside_holds_no_code_that_opens_or_seals() -> None:
    program = "import sys, common.service.core.node; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split()

    assert {name for name in loaded if name.startswith(("common.channel", "cryptography", "onnxruntime"))} == set()


def test_the_core_is_as_small_as_the_documents_say_and_stays_so() -> None:
    program = """
import sys, common.service.core.process, common.channel.sealed
print(*(module.__file__ for name, module in sys.modules.items() if name.startswith("common.") and module.__file__))
"""
    files = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split()
    lines = sum(_code_lines(Path(file)) for file in files)
    page = (ROOT / "docs" / "trusted-core.md").read_text()
    documented = int(re.search(r"\*\*([\d,]+) lines\*\*", page)[1].replace(",", ""))  # type: ignore[index]

    assert documented >= lines, f"the core has {lines} lines now: make it smaller, or say so in docs/trusted-core.md"
    assert documented <= 5000


def _code_lines(path: Path) -> int:
    """Lines that are neither blank nor a comment; docstrings count."""
    lines = (line.strip() for line in path.read_text().splitlines())
    return sum(bool(line) and not line.startswith("#") for line in lines)
