"""The cryptography of the sealed channel: what is altered, repeated, turned round or redirected does not open."""

import base64
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from common.certificates.authority import Authority
from common.certificates.names import Role
from common.channel.identity import Identity, TierKey, TierSecrets, Trust
from common.channel.outgoing import TierKeys
from common.channel.sessions import (
    WINDOW,
    OutgoingSession,
    ReplyGrant,
    SealError,
    SessionTable,
    _nonce,
    reply_session,
)
from common.errors import ConfigError, WireError
from common.transport.contract import Delivery
from common.types import NodeStatus, Tier
from common.wire.documents import encode_document

TOPIC, REPLY_TOPIC = "dimee/v1/home/edge/request", "dimee/v1/home/device/pi-1/outcome"
BODY = b"plaintext " * 20
SAMPLED = 2000


class Ends:
    """A device and a worker of the edge, with what an attacker may hold besides."""

    def __init__(self, authority: Authority) -> None:
        self.authority = authority
        self.folder = authority.rotate_seal("edge")
        self.trust = Trust.read(authority.folder / "ca.pem", None)
        self.secrets = TierSecrets(self.folder)
        self.table = self.worker()
        self.session = self.open()

    def worker(self, tier: str = "edge", **changes: Any) -> SessionTable:
        return SessionTable(self.trust, self.secrets, tier, **{"lifetime_s": 600.0, **changes})

    def key(self) -> TierKey:
        return self.trust.tier_key(self.secrets.announced, "edge")

    def identity(self, node: str = "pi-1") -> Identity:
        folder = self.authority.folder / "nodes" / node
        return Identity.read(folder / "certificate.pem", folder / "key.pem")

    def open(self, node: str = "pi-1", *, age_s: float = 0.0) -> OutgoingSession:
        return OutgoingSession(self.identity(node), self.key(), "edge", int((time.time() - age_s) * 1000))

    def receive(self, reply: bytes) -> tuple[str, bytes]:
        if reply_session(reply) != self.session.session_id:
            raise SealError("stranger", "goes to no session of ours")
        return self.session.open(REPLY_TOPIC, reply)

    def grant(self, label: str = "r1") -> ReplyGrant:
        incoming, _ = self.table.open(TOPIC, self.session.seal(TOPIC, BODY))
        return incoming.grant(label)


@pytest.fixture
def ends(authority: Authority) -> Ends:
    return Ends(authority)


def refusal(table: SessionTable, payload: bytes, topic: str = TOPIC) -> str:
    with pytest.raises(SealError) as refused:
        table.open(topic, payload)
    return refused.value.reason


def test_a_request_opens_once_with_its_senders_name(ends: Ends) -> None:
    sealed = ends.session.seal(TOPIC, BODY)

    incoming, body = ends.table.open(TOPIC, sealed)

    assert (incoming.peer.name, incoming.peer.role, body) == ("pi-1", Role.DEVICE, BODY)
    assert BODY[:10] not in sealed
    assert refusal(ends.table, sealed) == "replayed"


def test_every_worker_of_a_tier_opens_any_message_of_a_session(ends: Ends) -> None:
    sealed = [ends.session.seal(TOPIC, bytes([number])) for number in range(4)]
    other = ends.worker()

    opened = [(ends.table if number % 2 else other).open(TOPIC, each)[1] for number, each in enumerate(sealed)]

    assert opened == [bytes([number]) for number in range(4)]


def test_sampled_single_bits_of_a_request_count(ends: Ends) -> None:
    sealed, draw = ends.session.seal(TOPIC, BODY), random.Random(0)
    ends.table.open(TOPIC, ends.session.seal(TOPIC, BODY))  # the session is known: the easier case for a forger

    for bit in draw.sample(range(8 * len(sealed)), SAMPLED):
        altered = bytearray(sealed)
        altered[bit // 8] ^= 1 << bit % 8
        with pytest.raises(SealError):
            ends.table.open(TOPIC, bytes(altered))
    assert ends.table.open(TOPIC, sealed)[1] == BODY  # the attempts have not spent its counter


def test_every_single_bit_of_a_session_opening_counts_and_none_stops_the_tier(ends: Ends) -> None:
    sealed = ends.session.seal(TOPIC, b"")

    for bit in range(8 * (len(sealed) - 16)):
        altered = bytearray(sealed)
        altered[bit // 8] ^= 1 << bit % 8
        with pytest.raises(SealError):
            ends.table.open(TOPIC, bytes(altered))


def test_every_single_bit_of_a_reply_counts(ends: Ends) -> None:
    sealed = ends.grant().seal(REPLY_TOPIC, "r1", BODY)

    for bit in range(8 * len(sealed)):
        altered = bytearray(sealed)
        altered[bit // 8] ^= 1 << bit % 8
        with pytest.raises(SealError):
            ends.receive(bytes(altered))
    assert ends.session.open(REPLY_TOPIC, sealed) == ("r1", BODY)


def test_no_truncated_request_or_reply_opens(ends: Ends) -> None:
    request, reply = ends.session.seal(TOPIC, BODY), ends.grant().seal(REPLY_TOPIC, "r1", BODY)

    for end in range(len(request)):
        assert refusal(ends.table, request[:end]) in {"plain", "truncated", "forged", "stranger"}
    for end in range(len(reply)):
        with pytest.raises(SealError):
            ends.session.open(REPLY_TOPIC, reply[:end])


def test_replays_in_any_order_are_refused_and_late_ones_within_the_window_are_not(ends: Ends) -> None:
    sealed = [ends.session.seal(TOPIC, b"") for _ in range(WINDOW + 10)]
    draw = random.Random(0)
    shuffled = draw.sample(range(500), 500)
    for number in shuffled:
        ends.table.open(TOPIC, sealed[number])

    assert {refusal(ends.table, sealed[draw.randrange(500)]) for _ in range(SAMPLED)} == {"replayed"}
    ends.table.open(TOPIC, sealed[WINDOW + 9])
    assert refusal(ends.table, sealed[0]) == "replayed"
    assert ends.table.open(TOPIC, sealed[600])


def test_the_longest_request_id_can_be_answered(ends: Ends) -> None:
    longest = "\N{GRINNING FACE}" * 64  # 256 bytes

    sealed = ends.grant(longest).seal(REPLY_TOPIC, longest, BODY)

    assert ends.session.open(REPLY_TOPIC, sealed) == (longest, BODY)


def test_a_reply_opens_once(ends: Ends) -> None:
    sealed = ends.grant().seal(REPLY_TOPIC, "r1", BODY)
    ends.session.open(REPLY_TOPIC, sealed)

    with pytest.raises(SealError, match="replayed"):
        ends.session.open(REPLY_TOPIC, sealed)


def test_a_request_is_bound_to_its_topic_and_its_tier(ends: Ends) -> None:
    sealed = ends.session.seal(TOPIC, BODY)

    assert refusal(ends.table, sealed, "dimee/v1/work/edge/request") == "forged"
    assert refusal(ends.worker("cloud"), sealed) == "forged"  # even where both tiers held one key


def test_nothing_comes_back_as_its_own_answer(ends: Ends) -> None:
    request, reply = ends.session.seal(REPLY_TOPIC, BODY), ends.grant().seal(TOPIC, "r1", BODY)

    with pytest.raises(SealError, match="plain"):
        ends.session.open(REPLY_TOPIC, request)
    assert refusal(ends.table, reply) == "plain"


def test_a_reply_to_one_device_or_request_answers_no_other(ends: Ends) -> None:
    other = ends.open("pi-2")
    sealed = ends.grant("r1").seal(REPLY_TOPIC, "r1", BODY)
    renamed = sealed.replace(b"\x00\x02r1", b"\x00\x02r2")

    with pytest.raises(SealError, match="forged"):
        other.open(REPLY_TOPIC, sealed)
    with pytest.raises(SealError, match="forged"):
        ends.session.open(REPLY_TOPIC, renamed)
    with pytest.raises(SealError, match="forged"):
        ends.session.open("dimee/v1/home/device/pi-2/outcome", sealed)


def test_the_grant_of_one_request_opens_or_answers_no_other(ends: Ends) -> None:
    stolen = ends.grant("r1")

    with pytest.raises(SealError, match="forged"):
        ends.session.open(REPLY_TOPIC, stolen.seal(REPLY_TOPIC, "r2", BODY))


def test_a_session_opening_with_anothers_certificate_is_refused(ends: Ends) -> None:
    victim, thief = ends.identity("pi-2"), ends.identity("pi-1")
    posing = Identity("pi-2", victim.certificate, thief.key)
    session = OutgoingSession(posing, ends.key(), "edge", int(time.time() * 1000))

    assert refusal(ends.table, session.seal(TOPIC, BODY)) == "forged"


def test_strangers_and_the_revoked_are_refused(ends: Ends, tmp_path: Path) -> None:
    other = Authority.create(tmp_path / "other", "home")
    folder = other.issue("pi-1", Role.DEVICE)
    stranger = Identity.read(folder / "certificate.pem", folder / "key.pem")
    session = OutgoingSession(stranger, ends.key(), "edge", int(time.time() * 1000))
    assert refusal(ends.table, session.seal(TOPIC, BODY)) == "stranger"

    ends.authority.revoke("pi-1")
    ends.trust = Trust.read(ends.authority.folder / "ca.pem", ends.authority.folder / "crl.pem")
    assert refusal(ends.worker(), ends.open("pi-1").seal(TOPIC, BODY)) == "stranger"
    assert ends.worker().open(TOPIC, ends.open("pi-2").seal(TOPIC, BODY))


def test_old_and_future_sessions_are_refused(ends: Ends) -> None:
    assert refusal(ends.table, ends.open(age_s=1300).seal(TOPIC, BODY)) == "out_of_date"
    assert refusal(ends.table, ends.open(age_s=-700).seal(TOPIC, BODY)) == "out_of_date"


def test_sessions_of_a_device_are_bounded_and_a_forgotten_one_never_comes_back(ends: Ends) -> None:
    first = ends.open(age_s=100)
    sealed = first.seal(TOPIC, BODY)
    ends.table.open(TOPIC, sealed)
    for age_s in range(90, 0, -10):
        ends.table.open(TOPIC, ends.open(age_s=age_s).seal(TOPIC, BODY))

    assert len(ends.table._by_opening) == 4
    assert refusal(ends.table, sealed) == "replayed"


def test_nonces_of_a_session_never_repeat(ends: Ends) -> None:
    sealed = [ends.session.seal(TOPIC, b"") for _ in range(1000)]
    counters = [each[-24:-16] for each in sealed]

    assert len({_nonce(int.from_bytes(counter)) for counter in counters}) == 1000
    assert ends.open().session_id != ends.open().session_id


def test_a_rotated_key_still_opens_what_was_sealed_to_the_one_before_and_nothing_older(ends: Ends) -> None:
    before = ends.session.seal(TOPIC, BODY)
    ends.authority.rotate_seal("edge")
    ends.secrets = TierSecrets(ends.folder)
    assert ends.worker().open(TOPIC, before)

    ends.authority.rotate_seal("edge")
    ends.secrets = TierSecrets(ends.folder)
    assert refusal(ends.worker(), before) == "stranger"


@pytest.mark.parametrize("tier", ["cloud", "pi-1"])
def test_an_announced_key_is_of_its_tier_or_none(ends: Ends, tier: str) -> None:
    with pytest.raises(WireError, match="no sealing key"):
        ends.trust.tier_key(ends.secrets.announced, tier)


def test_a_nodes_certificate_is_no_tier_key_and_a_tier_key_no_node(ends: Ends) -> None:
    with pytest.raises(WireError, match="no sealing key"):
        ends.trust.tier_key(base64.b64encode(ends.identity().certificate).decode(), "edge")
    with pytest.raises(WireError, match="no Ed25519 key"):
        ends.trust.peer(base64.b64decode(ends.secrets.announced))


def test_a_key_of_another_certificate_is_a_configuration_error(ends: Ends) -> None:
    nodes = ends.authority.folder / "nodes"

    with pytest.raises(ConfigError, match="is not the key of"):
        Identity.read(nodes / "pi-1" / "certificate.pem", nodes / "pi-2" / "key.pem")


def test_an_older_announcement_does_not_bring_its_key_back(ends: Ends) -> None:
    def announce(key: str) -> Delivery:
        status = NodeStatus(state="online", tier=Tier.EDGE, node="edge-1", tier_key=key)
        return Delivery("dimee/v1/home/status/edge/edge-1", encode_document(status), 0.0)

    old, counts = ends.secrets.announced, Counter[str]()
    time.sleep(1.1)  # certificates start at whole seconds
    new = TierSecrets(ends.authority.rotate_seal("edge")).announced
    keys = TierKeys(ends.trust, Tier.EDGE, counts)

    keys.announcements.put(announce(new))
    keys.announcements.put(announce(old))
    keys.announcements.put(announce("AAAA"))

    assert keys.newest().key_id == ends.trust.tier_key(new, "edge").key_id
    assert counts == {"refused_announcement": 1}
