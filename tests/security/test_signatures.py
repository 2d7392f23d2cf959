"""Signed outcomes: only the tier that answered vouches for an answer, to one device and for one request."""

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest

from common.certificates.authority import CRL_FILE, Authority
from common.certificates.names import Role
from common.channel.identity import Identity, Trust
from common.channel.signatures import OutcomeSigner, OutcomeVerifier
from common.errors import WireError
from common.store.engine import readable_log
from common.store.queries import oldest_first
from common.transport.contract import Inbox
from common.types import Hop, Reason, Signature, Tier
from common.wire import codec
from common.wire.messages import Failure, HiddenStates, Outcome, SignedOutcome
from common.wire.topics import Topics
from tests.security.nodes import LIMIT_S, start, wait_online

TOPICS = Topics("home")
WRONG, RIGHT = (9.0, -9.0), (-9.0, 9.0)


def outcome(request_id: str = "r-1", *, tier: Tier = Tier.CLOUD, node: str = "cloud-1", **changes: Any) -> Outcome:
    hop = Hop(tier=tier, node=node, start=1, end=3, queue_ms=0.0, compute_ms=1.0)
    fields = {
        "request_id": request_id,
        "model_revision": "abc",
        "reason": Reason.FINAL,
        "logits": WRONG,
        "confidence": 0.9,
        "exit_layer": 3,
        "threshold": None,
        "hops": (hop,),
    }
    return Outcome(**(fields | changes))


def identity(authority: Authority, node: str) -> Identity:
    folder = authority.folder / "nodes" / node
    return Identity.read(folder / "certificate.pem", folder / "key.pem")


def signed(authority: Authority, node: str, message: Outcome, device: str = "pi-1") -> SignedOutcome:
    return OutcomeSigner(identity(authority, node)).sign(device, codec.encode(message))


@pytest.fixture
def verifier(authority: Authority) -> OutcomeVerifier:
    return OutcomeVerifier(Trust.read(authority.folder / "ca.pem", authority.folder / CRL_FILE), "pi-1")


@pytest.mark.parametrize(("node", "tier"), [("cloud-1", Tier.CLOUD), ("edge-1", Tier.EDGE)])
def test_what_a_tier_has_signed_holds(authority: Authority, verifier: OutcomeVerifier, node: str, tier: Tier) -> None:
    verifier.verify(signed(authority, node, outcome(tier=tier, node=node)))


def test_every_flipped_bit_of_the_outcome_and_the_signature_is_noticed(
    authority: Authority, verifier: OutcomeVerifier
) -> None:
    good = signed(authority, "cloud-1", outcome())

    for field in ("outcome", "signature"):
        for bit in range(8 * len(getattr(good, field))):
            altered = bytearray(getattr(good, field))
            altered[bit // 8] ^= 1 << bit % 8
            with pytest.raises(WireError):
                verifier.verify(msgspec.structs.replace(good, **{field: bytes(altered)}))


def test_a_signature_holds_for_one_request_and_one_device(authority: Authority, verifier: OutcomeVerifier) -> None:
    good = signed(authority, "cloud-1", outcome("r-1"))

    with pytest.raises(WireError, match="not what 'cloud-1' has signed"):
        verifier.verify(msgspec.structs.replace(good, outcome=codec.encode(outcome("r-2"))))
    with pytest.raises(WireError, match="not what 'cloud-1' has signed for 'pi-1'"):
        verifier.verify(signed(authority, "cloud-1", outcome(), device="pi-2"))


@pytest.mark.parametrize(
    ("signer", "tier", "node"),
    [
        ("pi-2", Tier.CLOUD, "cloud-1"),  # as somebody else
        ("pi-2", Tier.CLOUD, "pi-2"),  # as the tier that it is not
        ("pi-2", Tier.DEVICE, "pi-2"),  # as what it is: devices answer for nobody
        ("edge-1", Tier.CLOUD, "edge-1"),
        ("app", Tier.CLOUD, "app"),
    ],
)
def test_a_certificate_signs_for_its_own_name_and_role_alone(
    authority: Authority, verifier: OutcomeVerifier, signer: str, tier: Tier, node: str
) -> None:
    with pytest.raises(WireError, match=f"'{signer}' has signed what"):
        verifier.verify(signed(authority, signer, outcome(tier=tier, node=node)))


def test_a_revoked_tier_and_another_sites_tier_sign_for_nobody(authority: Authority, tmp_path: Path) -> None:
    foreign = Authority.create(tmp_path / "foreign", "home")
    foreign.issue("cloud-1", Role.CLOUD)
    message = signed(authority, "cloud-1", outcome())
    authority.revoke("cloud-1")
    informed = OutcomeVerifier(Trust.read(authority.folder / "ca.pem", authority.folder / CRL_FILE), "pi-1")

    with pytest.raises(WireError, match="is revoked"):
        informed.verify(message)
    with pytest.raises(WireError, match="not signed by this site's authority"):
        informed.verify(signed(foreign, "cloud-1", outcome()))


def test_only_an_outcome_can_be_signed(authority: Authority, verifier: OutcomeVerifier) -> None:
    failure = codec.encode(Failure(request_id="r-1", code="internal", detail="", node="cloud-1"))
    nested = codec.encode(signed(authority, "cloud-1", outcome()))

    for inner in (failure, nested):
        with pytest.raises(WireError, match="is signed where an Outcome belongs"):
            verifier.verify(OutcomeSigner(identity(authority, "cloud-1")).sign("pi-1", inner))
        with pytest.raises(WireError, match="is signed where an outcome belongs"):
            codec.headings(codec.encode(SignedOutcome(outcome=inner, certificate=b"", signature=b"")))


def answering(request: HiddenStates, logits: tuple[float, float]) -> Outcome:
    hop = Hop(tier=Tier.CLOUD, node="cloud-1", start=request.split_point, end=3, queue_ms=0.0, compute_ms=1.0)
    return outcome(request.request_id, model_revision=request.model_revision, logits=logits, hops=(*request.hops, hop))


def _stripped(_authority: Authority, wrong: Outcome, _honest: SignedOutcome) -> Outcome:
    return wrong


def _forged(_authority: Authority, wrong: Outcome, honest: SignedOutcome) -> SignedOutcome:
    return msgspec.structs.replace(honest, outcome=codec.encode(wrong))


def _replayed(authority: Authority, wrong: Outcome, _honest: SignedOutcome) -> SignedOutcome:
    former = signed(authority, "cloud-1", msgspec.structs.replace(wrong, request_id="a former request"))
    return msgspec.structs.replace(former, outcome=codec.encode(wrong))


def _of_a_device(authority: Authority, wrong: Outcome, _honest: SignedOutcome) -> SignedOutcome:
    hop = msgspec.structs.replace(wrong.hops[-1], node="pi-2")
    return signed(authority, "pi-2", msgspec.structs.replace(wrong, hops=(*wrong.hops[:-1], hop)))


def _for_another_device(authority: Authority, wrong: Outcome, _honest: SignedOutcome) -> SignedOutcome:
    return signed(authority, "cloud-1", wrong, device="pi-2")


ATTACKS: list[Callable[[Authority, Outcome, SignedOutcome], Outcome | SignedOutcome]] = [
    _stripped,
    _forged,
    _replayed,
    _of_a_device,
    _for_another_device,
]


class Cloud:
    """A cloud behind a broker that lies: each request's first outcome is attacked, the last request's for ever."""

    def __init__(self, authority: Authority, transport: Any) -> None:
        self._authority = authority
        self._transport = transport
        self._attacks = dict[str, int]()  # by request

    def serve(self, requests: Inbox, open_: int) -> None:
        """Answer until so many requests have had their honest outcome."""
        while open_ > 0:
            delivery = requests.get(LIMIT_S)
            assert delivery is not None, "the device sends again what it does not believe"
            request = codec.decode(delivery.payload)
            assert isinstance(request, HiddenStates)
            assert request.needs_signature
            number = self._attacks.setdefault(request.request_id, len(self._attacks))
            honest = signed(self._authority, "cloud-1", answering(request, RIGHT))
            if request.attempt == 1 or number == len(ATTACKS):
                lie = ATTACKS[number % len(ATTACKS)](self._authority, answering(request, WRONG), honest)
                self._transport.publish(TOPICS.outcome("pi-1"), codec.encode(lie))
            else:
                self._transport.publish(TOPICS.outcome("pi-1"), codec.encode(honest))
                open_ -= 1


@pytest.mark.broker
@pytest.mark.e2e
def test_a_device_believes_nothing_but_the_tiers_signature_and_the_log_keeps_the_verdict(
    site: Any, tiny_bundle: Path, tmp_path: Path
) -> None:
    settings = {
        "DIMEE_MODEL__BUNDLE": str(tiny_bundle),
        "DIMEE_ROUTING__POLICY": "cloud-only",
    }
    overseer, requests, statuses = site.transport("overseer"), Inbox(1000), Inbox(1000)
    overseer.subscribe(TOPICS.request(Tier.CLOUD), requests)
    overseer.subscribe(TOPICS.status("+", "+"), statuses)
    texts = [f"{word} film" for word in ("fine", "bright", "moving", "funny", "warm", "dull")]

    with ExitStack() as stack:
        stack.enter_context(overseer)
        edge = start(site, settings, tmp_path, Tier.EDGE, "edge", "run", channel="plain")
        stack.callback(edge.wait, LIMIT_S)
        stack.callback(edge.terminate)
        wait_online(statuses, {"edge-1"}, is_sealed=False)
        limits = {"DIMEE_DEVICE__BUDGET_MS": "6000", "DIMEE_DEVICE__RETRY_MS": "200"}
        device = start(site, settings | limits, tmp_path, Tier.DEVICE, "device", "run", "--stdin", channel="plain")
        stack.callback(device.kill)
        assert device.stdin is not None
        device.stdin.write("\n".join(texts).encode())
        device.stdin.close()
        Cloud(site.authority, overseer).serve(requests, open_=len(ATTACKS))
        said = device.stdout.read() if device.stdout else b""
        assert device.wait(LIMIT_S) == 0

    answers = {answer["request_id"]: answer for answer in map(json.loads, said.splitlines())}
    with readable_log(f"sqlite:///{tmp_path}/log.sqlite") as engine:
        rows = list(oldest_first(engine))
    assert [(row.label, row.signature, row.reason) for row in rows[:-1]] == [
        ("1", Signature.VERIFIED, Reason.FINAL) for _ in ATTACKS
    ]
    assert (rows[-1].signature, rows[-1].reason) == (Signature.REFUSED, Reason.DEGRADED)
    assert all(row.attempts > 1 for row in rows)
    assert answers.keys() == {row.request_id for row in rows}
