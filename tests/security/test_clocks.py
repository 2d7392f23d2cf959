"""A clock that jumps, and jumps back, does not keep a sealed device from being heard."""

import time
from collections import Counter
from pathlib import Path

import pytest

from common.certificates.authority import Authority
from common.channel.identity import Identity, TierSecrets, Trust
from common.channel.outgoing import Sender
from common.channel.sessions import SealError, SessionTable
from common.errors import TransportError
from common.transport.contract import Delivery
from common.types import NodeStatus, Tier
from common.wire.documents import encode_document

TOPIC = "dimee/v1/home/edge/request"
DAY_S = 86_400.0


class Ends:
    """A device whose clock can be set, and an edge whose clock is right."""

    def __init__(self, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
        authority.rotate_seal(Tier.EDGE)
        own = authority.folder / "nodes" / "pi-1"
        trust = Trust.read(authority.folder / "ca.pem", None)
        secrets = TierSecrets(authority.folder / "tiers" / "edge")
        self.counts: Counter[str] = Counter()
        identity = Identity.read(own / "certificate.pem", own / "key.pem")
        self.sender = Sender(identity, trust, (Tier.EDGE,), session_s=600.0, counts=self.counts)
        self.table = SessionTable(trust, secrets, "edge", lifetime_s=600.0)
        self.announced = secrets.announced
        self._monkeypatch = monkeypatch

    def announce(self, key: str) -> None:
        status = NodeStatus(state="online", tier=Tier.EDGE, node="edge-1", tier_key=key)
        self.sender._keys[Tier.EDGE].announcements.put(Delivery("status", encode_document(status), 0.0))

    def says(self, offset_s: float = 0.0) -> None:
        """Let the device seal with its clock off by so much, and the edge open it."""
        true = time.time
        with self._monkeypatch.context() as patched:
            patched.setattr(time, "time", lambda: true() + offset_s)
            sealed = self.sender.seal(Tier.EDGE, TOPIC, b"request")
        self.table.open(TOPIC, sealed)


@pytest.fixture
def ends(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> Ends:
    return Ends(authority, monkeypatch)


@pytest.mark.parametrize("jump_s", [DAY_S, -DAY_S, 7200.0, -7200.0])
def test_after_a_jump_of_hours_and_back_the_next_message_is_heard(ends: Ends, jump_s: float) -> None:
    ends.announce(ends.announced)
    ends.says()

    with pytest.raises(SealError, match="out_of_date"):
        ends.says(jump_s)

    for _ in range(3):
        ends.says()


def test_jumps_of_a_minute_are_never_noticed(ends: Ends) -> None:
    ends.announce(ends.announced)

    for offset_s in (0.0, 60.0, 0.0, -60.0, 0.0, 60.0, 0.0) * 3:
        ends.says(offset_s)


def test_a_key_that_came_while_the_clock_was_wrong_is_believed_once_it_is_right(ends: Ends, tmp_path: Path) -> None:
    other = Authority.create(tmp_path / "other", "home")
    other.rotate_seal(Tier.EDGE)
    foreign = TierSecrets(other.folder / "tiers" / "edge").announced
    trust = ends.sender._keys[Tier.EDGE]._trust
    real = trust.tier_key
    trust.tier_key = lambda _, tier: real(foreign, tier)  # type: ignore[method-assign]  # as a wrong clock would
    ends.announce(ends.announced)
    with pytest.raises(TransportError, match="announced a sealing key"):
        ends.sender.seal(Tier.EDGE, TOPIC, b"request")

    trust.tier_key = real  # type: ignore[method-assign]
    ends.says()

    assert ends.counts["refused_announcement"] == 1
