"""The cryptography of the sealed channel, without I/O: the only code here that holds message keys.

A sender opens a session to a tier with an ephemeral X25519 key, signed by its certificate's key; the opening travels
with every message, so that whichever worker of the tier gets one can open it. Requests count up (nonce = counter);
replies use a key of their own, derived with a fresh random salt, because the workers that share a session cannot share
a counter (the construction of Oblivious HTTP, RFC 9458, section 4.4).
"""

import hashlib
import os
import struct
import time
from collections import OrderedDict
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from common.channel.identity import KEY_ID_BYTES, Identity, Peer, TierKey, TierSecrets, Trust
from common.errors import WireError

REQUEST, REPLY = b"dSQ1", b"dSR1"
MAX_MESSAGES = 1 << 20  # under one session; nonces could count to 2^64
CLOCK_SKEW_S = 600.0  # how far the clocks of two nodes may differ
WINDOW = 1024  # counters behind the newest one that may still come: shared subscriptions overtake
_SESSIONS_PER_PEER = 4
_MAX_REPLIES_KEPT = 1 << 16
_OPENING_LABEL = b"dimee session opening v1\0"
_OPENING = struct.Struct(f">32s{KEY_ID_BYTES}sQH")  # ephemeral key, tier key id, milliseconds since the epoch, length
_SIGNATURE_BYTES = 64
_SALT_BYTES = 32
SESSION_ID_BYTES = 16
SECRET_BYTES = 32
_TAG_BYTES = 16
_LENGTH = struct.Struct(">H")
_COUNTER = struct.Struct(">Q")


class SealError(WireError):
    """A sealed message that does not hold; ``reason`` is what it is counted under."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class ReplyGrant:
    """What it takes to answer one exchange of a session; opens nothing else."""

    session_id: bytes
    secret: bytes

    def seal(self, topic: str, label: str, body: bytes) -> bytes:
        """Seal a reply under a key that is used once."""
        salt, name = os.urandom(_SALT_BYTES), label.encode()
        header = REPLY + self.session_id + salt + _LENGTH.pack(len(name)) + name
        return header + _reply_cipher(self.secret, salt).encrypt(bytes(12), body, _bound(topic, header))


class OutgoingSession:
    """A session as its opener holds it; one thread at a time."""

    def __init__(self, identity: Identity, tier_key: TierKey, tier: str, opened_ms: int) -> None:
        ephemeral = X25519PrivateKey.generate()
        public = ephemeral.public_key().public_bytes_raw()
        opening = _OPENING.pack(public, tier_key.key_id, opened_ms, len(identity.certificate)) + identity.certificate
        self._opening = opening + identity.key.sign(_OPENING_LABEL + tier.encode() + b"\0" + opening)
        self.session_id = _session_id(self._opening)
        self.opened_ms = opened_ms
        key, self._reply_root = _keys(ephemeral, tier_key.key, self._opening)
        self._cipher = ChaCha20Poly1305(key)
        self._header = REQUEST + _LENGTH.pack(len(self._opening)) + self._opening
        self._count = 0
        self._seen: OrderedDict[bytes, None] = OrderedDict()  # salts of the replies opened so far

    @property
    def is_spent(self) -> bool:
        """Whether it has sealed as many messages as it may."""
        return self._count >= MAX_MESSAGES

    def seal(self, topic: str, body: bytes) -> bytes:
        """Seal a request; every nonce is used once."""
        if self.is_spent:
            raise AssertionError("a spent session is replaced before it seals")
        header = self._header + _COUNTER.pack(self._count)
        nonce = _nonce(self._count)
        self._count += 1
        return header + self._cipher.encrypt(nonce, body, _bound(topic, header))

    def open(self, topic: str, payload: bytes) -> tuple[str, bytes]:
        """Open a reply of this session: its label and its body.

        Raises:
            SealError: It is altered, of another exchange or topic, or came before.
        """
        salt, label, start = _read_reply(payload)
        header = payload[:start]
        cipher = _reply_cipher(_exchange_secret(self._reply_root, label), salt)
        body = _decrypt(cipher, bytes(12), payload[start:], _bound(topic, header))
        if salt in self._seen:
            raise SealError("replayed", f"reply to {label!r} came before")
        self._seen[salt] = None
        if len(self._seen) > _MAX_REPLIES_KEPT:
            self._seen.popitem(last=False)
        return label, body


@dataclass(slots=True)
class IncomingSession:
    """A session as a worker holds it."""

    session_id: bytes
    opening: bytes
    peer: Peer
    opened_ms: int
    cipher: ChaCha20Poly1305
    reply_root: bytes
    newest: int = -1
    seen: int = 0  # bit i: counter newest - i was there

    def grant(self, label: str) -> ReplyGrant:
        """Give what it takes to answer one exchange."""
        return ReplyGrant(self.session_id, _exchange_secret(self.reply_root, label))

    def note(self, counter: int) -> None:
        """Remember an authentic counter.

        Raises:
            SealError: It was there before, or is too old to tell.
        """
        ahead = counter - self.newest
        if ahead > 0:
            self.seen = ((self.seen << min(ahead, WINDOW)) | 1) & ((1 << WINDOW) - 1)
            self.newest = counter
            return
        if -ahead >= WINDOW or self.seen >> -ahead & 1:
            raise SealError("replayed", f"message {counter} of a session of {self.peer.name!r} came before or too late")
        self.seen |= 1 << -ahead


@dataclass(slots=True)
class _Openings:
    """One peer's sessions, oldest first; what was opened before ``floor_ms`` is over for good."""

    sessions: OrderedDict[bytes, IncomingSession] = field(default_factory=OrderedDict)
    floor_ms: int = 0


class SessionTable:
    """The sessions that were opened to this worker; one thread at a time."""

    def __init__(self, trust: Trust, secrets_: TierSecrets, tier: str, *, lifetime_s: float) -> None:
        self._trust = trust
        self._secrets = secrets_
        self._tier = tier
        self._lifetime_s = lifetime_s
        self._by_opening: dict[bytes, IncomingSession] = {}
        self._by_peer: dict[str, _Openings] = {}

    def open(self, topic: str, payload: bytes) -> tuple[IncomingSession, bytes]:
        """Open a request: who sent it in which session, and its body.

        Raises:
            SealError: It is plain, altered, of a stranger, for another topic or tier, out of date, or came before.
        """
        opening, counter, start = _read_request(payload)
        session = self._by_opening.get(opening) or self._admit(opening)
        self._check_age(session.opened_ms)
        body = _decrypt(session.cipher, _nonce(counter), payload[start:], _bound(topic, payload[:start]))
        self._keep(session)
        session.note(counter)
        return session, body

    def _admit(self, opening: bytes) -> IncomingSession:
        public, tier_key_id, opened_ms, _ = _OPENING.unpack_from(opening)
        signed = opening[:-_SIGNATURE_BYTES]
        try:
            peer = self._trust.peer(signed[_OPENING.size :])
            peer.key.verify(opening[-_SIGNATURE_BYTES:], _OPENING_LABEL + self._tier.encode() + b"\0" + signed)
            private = self._secrets.find(tier_key_id)
            key, reply_root = _keys(private, X25519PublicKey.from_public_bytes(public), opening)
        except InvalidSignature as exc:
            raise SealError("forged", "session opening is not signed by its certificate's key for this tier") from exc
        except (WireError, ValueError) as exc:
            raise SealError("stranger", str(exc)) from exc
        openings = self._by_peer.get(peer.name)
        if openings is not None and opened_ms <= openings.floor_ms:
            raise SealError("replayed", f"session of {peer.name!r} is older than those that are over")
        return IncomingSession(_session_id(opening), opening, peer, opened_ms, ChaCha20Poly1305(key), reply_root)

    def _check_age(self, opened_ms: int) -> None:
        age_s = time.time() - opened_ms / 1000
        if not -CLOCK_SKEW_S <= age_s <= self._lifetime_s + CLOCK_SKEW_S:
            raise SealError("out_of_date", f"session was opened {age_s:.0f} s ago; are the clocks of both nodes right?")

    def _keep(self, session: IncomingSession) -> None:
        if session.opening in self._by_opening:
            return
        openings = self._by_peer.setdefault(session.peer.name, _Openings())
        openings.sessions[session.session_id] = self._by_opening[session.opening] = session
        while len(openings.sessions) > _SESSIONS_PER_PEER:
            oldest = min(openings.sessions.values(), key=lambda each: each.opened_ms)
            openings.floor_ms = max(openings.floor_ms, oldest.opened_ms)
            del openings.sessions[oldest.session_id], self._by_opening[oldest.opening]


def _read_request(payload: bytes) -> tuple[bytes, int, int]:
    """Split a request into opening, counter and where the ciphertext starts."""
    if payload[:4] != REQUEST:
        raise SealError("plain", f"{len(payload)} bytes are no sealed request")
    (length,) = _LENGTH.unpack_from(payload.ljust(6, b"\0"), 4)
    start = 4 + _LENGTH.size + length + _COUNTER.size
    opening = payload[6 : 6 + length]
    is_whole = len(payload) >= start + _TAG_BYTES and length > _OPENING.size + _SIGNATURE_BYTES
    if not is_whole or _OPENING.unpack_from(opening)[3] != length - _OPENING.size - _SIGNATURE_BYTES:
        raise SealError("truncated", f"sealed request of {len(payload)} bytes is not whole")
    (counter,) = _COUNTER.unpack_from(payload, start - _COUNTER.size)
    return opening, counter, start


def rehearse() -> None:
    """Agree on a key and use it once, so that what the library loads late is loaded now."""
    ours, theirs = X25519PrivateKey.generate(), X25519PrivateKey.generate()
    key, root = _keys(ours, theirs.public_key(), b"")
    public = X25519PublicKey.from_public_bytes(ours.public_key().public_bytes_raw())
    _decrypt(ChaCha20Poly1305(key), _nonce(0), ChaCha20Poly1305(key).encrypt(_nonce(0), b"", b""), b"")
    ReplyGrant(bytes(SESSION_ID_BYTES), _exchange_secret(root, "")).seal("", "", public.public_bytes_raw())


def reply_session(payload: bytes) -> bytes:
    """Name the session that a reply belongs to.

    Raises:
        SealError: It is no sealed reply.
    """
    if payload[:4] != REPLY:
        raise SealError("plain", f"{len(payload)} bytes are no sealed reply")
    if len(payload) < 4 + SESSION_ID_BYTES:
        raise SealError("truncated", f"sealed reply of {len(payload)} bytes is not whole")
    return payload[4 : 4 + SESSION_ID_BYTES]


def _read_reply(payload: bytes) -> tuple[bytes, str, int]:
    """Split a reply into salt, label and where the ciphertext starts."""
    if payload[:4] != REPLY:
        raise SealError("plain", f"{len(payload)} bytes are no sealed reply")
    fixed = 4 + SESSION_ID_BYTES + _SALT_BYTES
    names = fixed + _LENGTH.size
    start = names + _LENGTH.unpack_from(payload.ljust(names, b"\0"), fixed)[0]
    if len(payload) < start + _TAG_BYTES:
        raise SealError("truncated", f"sealed reply of {len(payload)} bytes is not whole")
    try:
        label = payload[names:start].decode()
    except UnicodeDecodeError as exc:
        raise SealError("forged", "label of a sealed reply is no text") from exc
    return payload[fixed - _SALT_BYTES : fixed], label, start


def _decrypt(cipher: ChaCha20Poly1305, nonce: bytes, ciphertext: bytes, bound: bytes) -> bytes:
    try:
        return cipher.decrypt(nonce, ciphertext, bound)
    except InvalidTag as exc:
        raise SealError("forged", f"{len(ciphertext)} sealed bytes are altered, or meant for another topic") from exc


def _keys(private: X25519PrivateKey, public: X25519PublicKey, opening: bytes) -> tuple[bytes, bytes]:
    """Derive the request key and the root of all reply secrets, bound to the whole opening."""
    derived = HKDF(SHA256(), 2 * SECRET_BYTES, salt=hashlib.sha256(opening).digest(), info=b"dimee sealed v1").derive(
        private.exchange(public)
    )
    return derived[:SECRET_BYTES], derived[SECRET_BYTES:]


def _exchange_secret(root: bytes, label: str) -> bytes:
    return hashlib.blake2s(b"exchange\0" + label.encode(), key=root).digest()


def _reply_cipher(secret: bytes, salt: bytes) -> ChaCha20Poly1305:
    return ChaCha20Poly1305(hashlib.blake2s(b"reply\0" + salt, key=secret).digest())


def _session_id(opening: bytes) -> bytes:
    return hashlib.sha256(opening).digest()[:SESSION_ID_BYTES]


def _nonce(counter: int) -> bytes:
    return b"\0\0\0\0" + _COUNTER.pack(counter)


def _bound(topic: str, header: bytes) -> bytes:
    return topic.encode() + b"\0" + header
