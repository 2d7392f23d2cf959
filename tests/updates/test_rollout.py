"""Who runs what: the rollout, its stages, and a node's choice on disk."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from common.commands.rollout import Stage, staged, taken_back
from common.errors import ConfigError, WireError
from common.model.bundle import Bundle
from common.model.rollout import Rollout, decode_rollout, is_chosen
from common.model.shelf import Choice, Shelf
from common.wire.documents import encode_document

NODES = [f"pi-{number}" for number in range(1000)]


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9])
def test_about_the_asked_share_of_devices_is_chosen_and_always_the_same(share: float) -> None:
    chosen = {node for node in NODES if is_chosen(node, share)}

    assert abs(len(chosen) / len(NODES) - share) < 0.04
    assert chosen == {node for node in NODES if is_chosen(node, share)}
    assert chosen <= {node for node in NODES if is_chosen(node, min(1.0, share * 1.1))}, "a larger share keeps them"


def test_all_or_nothing_are_all_or_nothing() -> None:
    assert all(is_chosen(node, 1.0) for node in NODES)
    assert not any(is_chosen(node, 0.0) for node in NODES)


def test_a_canary_goes_on_to_all_and_back(old: Bundle, new: Bundle) -> None:
    first, _ = staged(Rollout(), old, Stage.ALL, 0.1, chunk_bytes=4096)
    canary, _ = staged(first, new, Stage.CANARY, 0.1, chunk_bytes=4096)
    everywhere, _ = staged(canary, new, Stage.ALL, 0.1, chunk_bytes=4096)
    back = taken_back(everywhere)

    chosen = next(node for node in NODES if is_chosen(node, 0.1))
    other = next(node for node in NODES if not is_chosen(node, 0.1))
    assert revisions(canary, chosen) == [new.revision, old.revision, None]
    assert revisions(canary, other) == [old.revision, None]
    assert revisions(taken_back(canary), chosen) == [old.revision, None]
    assert revisions(everywhere, other) == [new.revision, None]
    assert [release.revision for release in everywhere.releases] == [new.revision, old.revision], "both are served"
    assert revisions(back, other) == [old.revision, None]
    assert revisions(taken_back(back), other) == [None]
    assert first.sequence < canary.sequence < everywhere.sequence < back.sequence


def test_nothing_published_is_nothing_to_take_back() -> None:
    with pytest.raises(ConfigError, match="nothing is published"):
        taken_back(Rollout())


def test_what_runs_already_is_not_published_again(old: Bundle) -> None:
    first, _ = staged(Rollout(), old, Stage.ALL, 0.1, chunk_bytes=4096)

    with pytest.raises(ConfigError, match=f"runs {old.revision} already"):
        staged(first, old, Stage.CANARY, 0.1, chunk_bytes=4096)


@pytest.mark.parametrize(
    "payload",
    [
        b"{",
        b"\xff",
        b'{"share": 2}',
        b'{"stable": {"revision": "../../etc"}}',
        b'{"stable": {"revision": "0123456789abcdef", "name": "", "files": {"../x": {}}, "chunk_bytes": 4096}}',
        b'{"unknown": 1}',
        b" " * 70_000,
    ],
)
def test_an_announcement_that_is_none_is_refused(payload: bytes) -> None:
    with pytest.raises(WireError):
        decode_rollout(payload)


def test_an_announcement_comes_back_as_it_was_sent(old: Bundle) -> None:
    rollout, _ = staged(Rollout(), old, Stage.CANARY, 0.25, chunk_bytes=4096)

    assert decode_rollout(encode_document(rollout)) == rollout
    assert decode_rollout(b"") == Rollout()


def test_a_choice_that_was_cut_while_it_was_written_leaves_the_former_one(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    shelf.choose(Choice(current="a" * 16))
    (tmp_path / "choice.json.part").write_bytes(b'{"current": "bbb')  # a process died here

    assert Shelf(tmp_path).choice.current == "a" * 16


@pytest.mark.parametrize("content", [b"", b"{", b'{"current": "../.."}'])
def test_a_choice_that_cannot_be_read_is_the_bundle_of_the_settings(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "choice.json").write_bytes(content)

    assert Shelf(tmp_path).choice == Choice()


def test_refusals_are_remembered_and_bounded() -> None:
    choice = Choice()
    for number in range(40):
        choice = choice.refusing(f"{number:016x}", "exits drifted")

    assert len(choice.refused) == 16
    assert f"{39:016x}" in choice.refused


def revisions(rollout: Rollout, node: str) -> list[Any]:
    return [None if target is None else target.revision for target in rollout.for_device(node)]


def test_a_new_publication_of_damaged_contents_is_tried_again(old: Bundle) -> None:
    first, release = staged(Rollout(), old, Stage.ALL, 0.1, chunk_bytes=4096)
    again = msgspec.structs.replace(release, sequence=first.sequence + 1)
    damaged = Choice().refusing(release.publication, "is not what was announced")
    misbehaved = Choice().refusing(release.revision, "exits drifted")

    assert damaged.refuses(release)
    assert not damaged.refuses(again)
    assert misbehaved.refuses(again)
