"""The benchmark of protection on a tiny bundle: both sites answer, every ratio is there, and no attack succeeds."""

from pathlib import Path

import pytest
from tiny import sentences

pytest.importorskip("cryptography", reason="security needs cryptography: pip install 'dimee[security]'")

from common.bench.security.attacks import REPLY_TOPIC, TOPIC, Ends, attacks, bundle_flips, flip_in_place
from common.bench.security.costs import Extent, measure
from common.bench.security.sites import Premises

TEXTS = tuple(dict.fromkeys(text for text, _ in sentences(60, seed=5)))


@pytest.fixture
def premises(tiny_bundle: Path, tmp_path: Path) -> Premises:
    return Premises.make(tmp_path, str(tiny_bundle))


def test_no_attack_of_any_kind_opens_a_message(premises: Premises) -> None:
    tried = attacks(Ends(premises.authority), 300)

    assert tried.opened == {}
    assert sum(tried.refused.values()) == 300 * len(tried.kinds) == 2400


def test_what_is_attacked_would_open_unaltered(premises: Premises) -> None:
    """The control: the same messages open where they belong, once."""
    ends = Ends(premises.authority)

    session, body = ends.table.open(TOPIC, ends.session.seal(TOPIC, b"request"))
    label, answer = ends.session.open(REPLY_TOPIC, session.grant("r1").seal(REPLY_TOPIC, "r1", b"outcome"))

    assert (body, label, answer) == (b"request", "r1", b"outcome")


def test_no_flipped_bit_of_a_signed_bundle_is_believed(premises: Premises) -> None:
    assert bundle_flips(premises.bundle, premises.public_key, 60) == {"tried": 60, "believed": 0}


def test_a_bit_flipped_twice_is_the_file_again(premises: Premises) -> None:
    before = (premises.bundle / "manifest.json").read_bytes()

    flip_in_place(premises.bundle / "manifest.json", 77)
    once = (premises.bundle / "manifest.json").read_bytes()
    flip_in_place(premises.bundle / "manifest.json", 77)

    assert once != before
    assert (premises.bundle / "manifest.json").read_bytes() == before


@pytest.mark.broker
@pytest.mark.e2e
def test_protection_is_compared_tier_by_tier(tiny_bundle: Path, tmp_path: Path) -> None:
    extent = Extent(rounds=2, texts=20, load_rounds=2, load_texts=40, attacks=20, policies=("default",))

    found = measure(tmp_path, str(tiny_bundle), TEXTS, extent, lambda _: None)

    assert set(found.load_ratio) == {"device", "edge", "cloud", "worst"}
    assert set(found.throughput_ratio) == {"default", "worst"}
    assert found.latency_ratio["worst"] == max(each.ratio for each in found.latency_ms.values())
    assert found.throughput_ratio["worst"] == min(each.ratio for each in found.throughput_hz.values())
    assert sum(found.answers.values()) == 40
    assert found.attacks.opened == {}
