"""Bytes from strangers raise what the contracts name and nothing else; the long runs are ``make fuzz``."""

import random
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import WireError
from common.model.bundle import open_bundle
from common.wire.activations import CODEC_NAMES
from common.wire.documents import decode_input, decode_status
from common.wire.tokens import TOKENS
from tests.engine.test_thin_links import with_link
from tests.fuzz import targets as fuzzed
from tests.fuzz.mutation import mutate
from tests.fuzz.targets import Targets

_RELAXED = settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@pytest.fixture(scope="module")
def targets(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Targets:
    scratch = tmp_path_factory.mktemp("fuzz")
    return Targets(with_link(open_bundle(tiny_bundle), scratch), scratch / "settings.toml")


def test_every_seed_is_a_message_that_is_taken(targets: Targets, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []
    unpack_state = fuzzed.unpack_state
    monkeypatch.setattr(
        fuzzed, "unpack_state", lambda message, *rest: (unpack_state(message, *rest), taken.append(message.codec))[0]
    )

    for number, seed in targets.seeds():
        targets.all[number](seed)

    assert set(taken) == {*CODEC_NAMES, TOKENS}
    assert len(taken) == 2 * len(CODEC_NAMES) + 1  # whole and over a thin link


@_RELAXED
@given(data=st.binary(max_size=4096))
def test_any_bytes_are_met_with_the_named_errors(targets: Targets, data: bytes) -> None:
    for target in targets.all:
        target(data)


@_RELAXED
@given(seed=st.integers(0, 2**32), place=st.integers(0, 99))
def test_broken_messages_are_met_with_the_named_errors(targets: Targets, seed: int, place: int) -> None:
    seeds = targets.seeds()
    number, payload = seeds[place % len(seeds)]

    targets.all[number](mutate(payload, random.Random(seed)))


@_RELAXED
@given(
    document=st.recursive(
        st.none() | st.booleans() | st.floats() | st.text() | st.integers(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_structure_in_msgpack_is_met_with_the_named_errors(targets: Targets, document: Any) -> None:
    try:
        payload = msgpack.packb(["H", *document] if isinstance(document, list) else document)
    except OverflowError:
        return
    targets.message(payload)


def test_a_status_in_broken_utf8_is_refused() -> None:
    with pytest.raises(WireError):
        decode_status(b'\xc0"state": "online"}')


@pytest.mark.parametrize("payload", [b'{"more": ' + b"[" * 100_000, b"{" * 100_000])
def test_depth_without_end_is_no_input_of_ours_and_no_crash(payload: bytes) -> None:
    assert decode_input(payload).text == payload.decode()
    with pytest.raises(WireError):
        decode_status(payload)
