"""The sending side: one session per tier, replaced in time, and the keys that tiers announce."""

import threading
import time
from collections import Counter, OrderedDict, deque

from common.channel.identity import Identity, TierKey, Trust
from common.channel.sessions import CLOCK_SKEW_S, OutgoingSession, ReplyGrant, SealError, reply_session
from common.errors import TransportError, WireError
from common.transport.contract import Delivery, Inbox, Transport
from common.types import Tier
from common.wire.documents import decode_status
from common.wire.topics import Topics

_SESSIONS_KEPT = 8  # recent sessions whose replies may still come
OWN, FORWARDED = b"\0", b"\1"  # first byte of a body: whether a grant to answer another node follows


class Announcements(Inbox):
    """Keeps the last status of each node of a tier until somebody wants to know; never grows with traffic."""

    def __init__(self, max_nodes: int = 256) -> None:
        super().__init__(max_nodes)
        self._waiting: deque[bytes] = deque(maxlen=max_nodes)

    def put(self, delivery: Delivery) -> bool:
        """Keep a status; the oldest gives way."""
        self._waiting.append(delivery.payload)
        return True

    def take(self) -> list[bytes]:
        """Take what has come."""
        taken = []
        while self._waiting:
            taken.append(self._waiting.popleft())
        return taken


class TierKeys:
    """The newest key of one tier that its workers announced; it never goes back to an older one."""

    def __init__(self, trust: Trust, tier: Tier, counts: Counter[str]) -> None:
        self.announcements = Announcements()
        self._trust = trust
        self._tier = tier
        self._counts = counts
        self._newest: TierKey | None = None
        self._doubtful: deque[bytes] = deque(maxlen=16)  # refused, perhaps by a clock that was wrong

    def newest(self) -> TierKey:
        """Give the key to seal to.

        Raises:
            TransportError: The tier has announced none yet.
        """
        retried = list(self._doubtful) if self._newest is None else []
        for status in [*retried, *self.announcements.take()]:
            self._consider(status)
        if self._newest is None:
            raise TransportError(f"no worker of tier {self._tier} has announced a sealing key yet")
        return self._newest

    def _consider(self, status: bytes) -> None:
        try:
            announced = decode_status(status).tier_key
            found = self._trust.tier_key(announced, self._tier) if announced else None
        except WireError:
            if status not in self._doubtful:
                self._counts["refused_announcement"] += 1
                self._doubtful.append(status)
            return
        if found is not None and (self._newest is None or found.starts >= self._newest.starts):
            self._newest = found


class Sender:
    """Seals requests to tiers and opens their replies; safe to use from many threads."""

    def __init__(
        self, identity: Identity, trust: Trust, tiers: tuple[Tier, ...], *, session_s: float, counts: Counter[str]
    ) -> None:
        self._identity = identity
        self._session_s = session_s
        self._keys = {tier: TierKeys(trust, tier, counts) for tier in tiers}
        self._current: dict[Tier, tuple[TierKey, OutgoingSession]] = {}
        self._recent: OrderedDict[bytes, OutgoingSession] = OrderedDict()
        self._opened_ms = 0
        self._lock = threading.Lock()

    def listen(self, transport: Transport, topics: Topics) -> None:
        """Hear the keys that tiers announce."""
        for tier, keys in self._keys.items():
            transport.subscribe(topics.status(tier, "+"), keys.announcements)

    def seal(self, tier: Tier, topic: str, body: bytes, grant: ReplyGrant | None = None) -> bytes:
        """Seal a message to a tier, with the grant to answer somebody else if it is forwarded.

        Raises:
            TransportError: The tier has announced no key yet.
        """
        lead = OWN if grant is None else FORWARDED + grant.session_id + grant.secret
        with self._lock:
            return self._session(tier).seal(topic, lead + body)

    def open(self, topic: str, payload: bytes) -> tuple[str, bytes]:
        """Open a reply: its label and its body.

        Raises:
            SealError: It does not hold.
        """
        with self._lock:
            session = self._recent.get(reply_session(payload))
            if session is None:
                raise SealError("stranger", "reply is to a session that is not ours, or is long over")
            return session.open(topic, payload)

    def _session(self, tier: Tier) -> OutgoingSession:
        key, session = self._keys[tier].newest(), None
        if tier in self._current:
            used, session = self._current[tier]
            age_s = time.time() - session.opened_ms / 1000
            is_over = session.is_spent or not -CLOCK_SKEW_S < age_s <= self._session_s  # a clock may have gone back
            session = None if is_over or used.key_id != key.key_id else session
        if session is None:
            now_ms = int(time.time() * 1000)
            is_back = self._opened_ms - now_ms > CLOCK_SKEW_S * 1000  # by more than a worker would bear
            self._opened_ms = now_ms if is_back else max(self._opened_ms + 1, now_ms)
            session = OutgoingSession(self._identity, key, tier, self._opened_ms)
            self._current[tier] = (key, session)
            self._recent[session.session_id] = session
            while len(self._recent) > _SESSIONS_KEPT:
                self._recent.popitem(last=False)
        return session
