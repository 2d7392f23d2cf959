"""Attacks on sealed messages and signed bundles, and what sealing takes; run by ``benchmarks/security.py``."""

import os
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


def attacks(ends: Ends, count: int) -> dict[str, Any]:
    """Try flips, replays, reflections and substitutions on sealed messages; count what opened."""
    draw = random.Random(0)  # noqa: S311 - attacks that come again the same
    opened, reasons = Counter[str](), Counter[str]()
    body = os.urandom(1000)
    sealed = ends.session.seal(TOPIC, body)
    ends.table.open(TOPIC, ends.session.seal(TOPIC, body))
    spent = [ends.session.seal(TOPIC, body) for _ in range(100)]
    grants = [ends.table.open(TOPIC, each)[0].grant("r1") for each in spent]
    other = ends.opened("pi-2")
    for number in range(count):
        tries = {
            "bit_flip": lambda: ends.table.open(TOPIC, flipped(sealed, draw)),
            "bit_flip_of_topic": lambda: ends.table.open(flipped(TOPIC.encode(), draw).decode("latin-1"), sealed),
            "replay": lambda number=number: ends.table.open(TOPIC, spent[number % 100]),
            "reflection": lambda: ends.session.open(REPLY_TOPIC, sealed),
            "substitution": lambda number=number: other.open(
                REPLY_TOPIC, grants[number % 100].seal(REPLY_TOPIC, "r1", body)
            ),
        }
        for name, attempt in tries.items():
            try:
                attempt()
                opened[name] += 1
            except SealError as exc:
                reasons[f"{name}: {exc.reason}"] += 1
    return {"tried_each": count, "opened": dict(opened), "refused": dict(sorted(reasons.items()))}


def bundle_flips(bundle: Path, public: Path, count: int) -> dict[str, int]:
    """Flip single bits of the signed files and of the others; count what was believed."""
    key = files.read_verifying_key(public)
    draw = random.Random(0)  # noqa: S311 - attacks that come again the same
    names = ["manifest.json", "signature.json", *open_bundle(bundle).manifest.files]
    believed = 0
    for number in range(count):
        name = names[number % len(names)]
        content = (bundle / name).read_bytes()
        (bundle / name).write_bytes(flipped(content, draw))
        try:
            releases.verified(bundle, (bundle / "manifest.json").read_bytes(), key)
            Bundle(bundle).path(name)
            believed += 1
        except ArtifactError:
            continue
        finally:
            (bundle / name).write_bytes(content)
    return {"bundle_flips": count, "bundle_flips_believed": believed}


def flipped(content: bytes, draw: random.Random) -> bytes:
    """Flip one bit."""
    altered, bit = bytearray(content), draw.randrange(8 * len(content))
    altered[bit // 8] ^= 1 << bit % 8
    return bytes(altered)
