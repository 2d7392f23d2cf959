"""Attacks on sealed messages and signed bundles, and what sealing takes."""

import os
import random
import statistics
import struct
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.serialization import Encoding

from common.certificates import files, releases
from common.certificates.authority import Authority
from common.channel.identity import Identity, TierSecrets, Trust
from common.channel.sessions import OutgoingSession, SealError, SessionTable
from common.errors import ArtifactError
from common.model.bundle import Bundle, open_bundle

TOPIC = "dimee/v1/home/edge/request"
REPLY_TOPIC = "dimee/v1/home/device/pi-1/outcome"
PAYLOAD_BYTES = 12_288


class Ends:
    """A device's and an edge's end of the sealed channel."""

    def __init__(self, authority: Authority) -> None:
        self.trust = Trust.read(authority.folder / "ca.pem", None)
        self.secrets = TierSecrets(authority.folder / "tiers" / "edge")
        self.nodes = authority.folder / "nodes"
        self.table = self.worker()
        self.session = self.opened("pi-1")

    def worker(self) -> SessionTable:
        """Give a worker that knows no session."""
        return SessionTable(self.trust, self.secrets, "edge", lifetime_s=600.0)

    def opened(self, node: str) -> OutgoingSession:
        """Open a session from a node."""
        identity = Identity.read(self.nodes / node / "certificate.pem", self.nodes / node / "key.pem")
        return OutgoingSession(
            identity, self.trust.tier_key(self.secrets.announced, "edge"), "edge", int(time.time() * 1000)
        )


def sealing(ends: Ends, count: int = 2000) -> dict[str, float]:
    """Give microseconds at the median for 12 KB."""
    body = os.urandom(PAYLOAD_BYTES)
    grant = ends.table.open(TOPIC, ends.session.seal(TOPIC, body))[0].grant("r")
    sealed = [ends.session.seal(TOPIC, body) for _ in range(count)]
    outcome = os.urandom(300)
    return {
        "seal_12kb": median_us(lambda _: ends.session.seal(TOPIC, body), count),
        "open_12kb": median_us(lambda number: ends.table.open(TOPIC, sealed[number]), count),
        "seal_reply_300b": median_us(lambda _: grant.seal(REPLY_TOPIC, "r", outcome), count),
        "open_session_device": median_us(lambda _: ends.opened("pi-1"), 100),
        "first_message_of_session_worker": median_us(lambda number: ends.worker().open(TOPIC, sealed[number]), 100),
    }


def median_us(step: Callable[[int], object], count: int) -> float:
    """Time each of ``count`` steps."""
    taken = []
    for number in range(count):
        started = time.perf_counter()
        step(number)
        taken.append((time.perf_counter() - started) * 1e6)
    return round(statistics.median(taken), 1)


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """Attacks by kind: how many of each opened what they should not, and why the others were refused."""

    tried_each: int
    kinds: tuple[str, ...]
    opened: dict[str, int]
    refused: dict[str, int]  # by kind and reason


def attacks(ends: Ends, count: int) -> Tried:
    """Try flips, replays, reflections and substitutions on sealed messages; count what opened."""
    opened, reasons = Counter[str](), Counter[str]()
    attacker = _Attacker(ends)
    for number in range(count):
        for name, attempt in attacker.kinds.items():
            try:
                attempt(number)
                opened[name] += 1
            except SealError as exc:
                reasons[f"{name}: {exc.reason}"] += 1
    return Tried(
        tried_each=count, kinds=tuple(attacker.kinds), opened=dict(opened), refused=dict(sorted(reasons.items()))
    )


class _Attacker:
    """Holds what a hostile broker has seen, and sends it again, altered or elsewhere."""

    def __init__(self, ends: Ends) -> None:
        self.kinds: dict[str, Callable[[int], object]] = {
            "bit flip in a body": self._body,
            "bit flip in associated data": self._associated,
            "bit flip in a certificate": self._certificate,
            "bit flip in a reply": self._reply,
            "replay": self._replay,
            "replay of a reply": self._replay_of_reply,
            "reflection": self._reflection,
            "substitution of a device": self._substitution,
        }
        self._draw = random.Random(0)  # noqa: S311 - attacks that come again the same
        self._ends, body = ends, os.urandom(1000)
        self._fresh = ends.session.seal(TOPIC, body)
        (length,) = struct.unpack_from(">H", self._fresh, 4)
        self._start = 4 + 2 + length + 8  # magic, length, opening, counter: what the topic is bound with
        node = ends.nodes / "pi-1" / "certificate.pem"
        certificate = files.read_certificates(node)[0].public_bytes(Encoding.DER)
        begins = self._fresh.index(certificate)
        self._certified = range(begins, begins + len(certificate))
        self._spent = [ends.session.seal(TOPIC, body) for _ in range(100)]
        grants = [ends.table.open(TOPIC, each)[0].grant("r1") for each in self._spent]
        self._replies = [grant.seal(REPLY_TOPIC, "r1", body) for grant in grants]
        self._heard = self._replies[50:]
        for reply in self._heard:
            ends.session.open(REPLY_TOPIC, reply)
        self._other = ends.opened("pi-2")

    def _body(self, _: int) -> object:
        return self._ends.table.open(TOPIC, flipped(self._fresh, self._draw, range(self._start, len(self._fresh))))

    def _associated(self, number: int) -> object:
        if number % 4:
            return self._ends.table.open(TOPIC, flipped(self._fresh, self._draw, range(self._start)))
        return self._ends.table.open(flipped(TOPIC.encode(), self._draw).decode("latin-1"), self._fresh)

    def _certificate(self, _: int) -> object:
        return self._ends.worker().open(TOPIC, flipped(self._fresh, self._draw, self._certified))

    def _reply(self, number: int) -> object:
        return self._ends.session.open(REPLY_TOPIC, flipped(self._replies[number % 50], self._draw))

    def _replay(self, number: int) -> object:
        return self._ends.table.open(TOPIC, self._spent[number % 100])

    def _replay_of_reply(self, number: int) -> object:
        return self._ends.session.open(REPLY_TOPIC, self._heard[number % 50])

    def _reflection(self, number: int) -> object:
        if number % 2:
            return self._ends.session.open(REPLY_TOPIC, self._fresh)
        return self._ends.table.open(TOPIC, self._replies[number % 100])

    def _substitution(self, number: int) -> object:
        return self._other.open(REPLY_TOPIC, self._replies[number % 100])


def bundle_flips(bundle: Path, public: Path, count: int) -> dict[str, int]:
    """Flip single bits of the manifest, its signature and the files by turns; count what was believed."""
    key = files.read_verifying_key(public)
    draw = random.Random(0)  # noqa: S311 - attacks that come again the same
    names = ["manifest.json", "signature.json", *open_bundle(bundle).manifest.files]
    believed = 0
    for number in range(count):
        name = names[number % len(names)]
        place = draw.randrange(8 * (bundle / name).stat().st_size)
        flip_in_place(bundle / name, place)
        try:
            releases.verified(bundle, (bundle / "manifest.json").read_bytes(), key)
            Bundle(bundle).path(name)
            believed += 1
        except ArtifactError:
            continue
        finally:
            flip_in_place(bundle / name, place)
    return {"tried": count, "believed": believed}


def flip_in_place(path: Path, bit: int) -> None:
    """Flip one bit of a file; twice gives the file back."""
    with path.open("r+b") as file:
        file.seek(bit // 8)
        (byte,) = file.read(1)
        file.seek(bit // 8)
        file.write(bytes([byte ^ 1 << bit % 8]))


def flipped(content: bytes, draw: random.Random, where: range | None = None) -> bytes:
    """Flip one bit, of the bytes in ``where`` if it is given."""
    chosen = where or range(len(content))
    altered, bit = bytearray(content), draw.randrange(8 * len(chosen))
    altered[chosen[bit // 8]] ^= 1 << bit % 8
    return bytes(altered)
