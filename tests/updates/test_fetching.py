"""Bundles from a real broker onto a disk: cut and resumed, altered, too large, withdrawn."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from common.errors import ArtifactError, StoreError, TransportError
from common.model.bundle import AnyBundle, Bundle, open_bundle
from common.model.manifest import FileSeal
from common.model.rollout import Release
from common.model.shelf import Shelf
from common.service.updates.fetching import Fetcher
from tests.updates.conftest import TOPICS, published

LIMIT_S = 60.0


@pytest.fixture
def node(medium: Any) -> Iterator[Any]:
    """A node's connection to each broker."""
    with medium.transport("node") as transport:
        assert transport.wait_connected(LIMIT_S)
        yield transport


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "shelf")


def fetch(transport: Any, shelf: Shelf, release: Release, *, is_wanted: Any = lambda: True) -> Path:
    fetcher = Fetcher(transport, TOPICS, shelf)
    return fetcher.fetch(release, AnyBundle(), is_wanted=is_wanted, tell=lambda _share: None)


def test_a_published_bundle_arrives_intact(node: Any, shelf: Shelf, new: Bundle) -> None:
    release = published(node, new)

    folder = fetch(node, shelf, release)

    opened = open_bundle(folder)
    opened.verify()
    assert opened.revision == new.revision
    assert not list((shelf.folder / "incoming").iterdir())


def test_one_flipped_bit_is_refused_and_nothing_of_it_is_kept(node: Any, shelf: Shelf, new: Bundle) -> None:
    release = published(node, new, spoil=True)

    with pytest.raises(ArtifactError, match=r"\.onnx of bundle \w+ is not what was announced"):
        fetch(node, shelf, release)

    assert not shelf.has(release)
    assert not list((shelf.folder / "incoming").iterdir())


def test_a_fetch_that_was_cut_goes_on_where_it_was(node: Any, shelf: Shelf, new: Bundle) -> None:
    release = published(node, new)
    asked: list[int] = []

    with pytest.raises(TransportError, match="not wanted any more"):
        fetch(node, shelf, release, is_wanted=lambda: len(asked) < 5 and not asked.append(1))
    before = node.counters()["received"]
    fetch(node, shelf, release)

    parts = sum(1 for _ in release.chunks())
    assert node.counters()["received"] - before <= parts - 5 + 1  # the part that was on its way comes again
    open_bundle(shelf.bundle(release.revision)).verify()


def test_a_fetch_survives_a_broker_that_goes_and_comes(
    make_mosquitto: Any, shelf: Shelf, new: Bundle, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    store.mkdir()
    lines = ("allow_anonymous true", "persistence true", f"persistence_location {store}/", "autosave_interval 1")
    with make_mosquitto(*lines, "autosave_on_changes true") as mosquitto, mosquitto.transport("node") as transport:
        assert transport.wait_connected(LIMIT_S)
        release = published(transport, new)
        cut, count = threading.Event(), iter(range(1_000_000))

        def cut_once() -> bool:
            if next(count) == 7:
                mosquitto.stop()
                mosquitto.start()
                cut.set()
            return True

        folder = fetch(transport, shelf, release, is_wanted=cut_once)

    assert cut.is_set()
    open_bundle(folder).verify()


def test_a_part_that_a_power_cut_left_unwritten_is_fetched_again(node: Any, shelf: Shelf, new: Bundle) -> None:
    release = published(node, new)
    folder = shelf.staging(release)
    (folder / new.manifest.embedding).write_bytes(bytes(new.manifest.files[new.manifest.embedding].num_bytes))

    fetch(node, shelf, release)

    open_bundle(shelf.bundle(release.revision)).verify()


def test_a_full_disk_is_told_and_gives_its_room_back(node: Any, shelf: Shelf, new: Bundle) -> None:
    release = published(node, new)
    folder = shelf.staging(release)
    (folder / new.manifest.embedding).symlink_to("/dev/full")  # every write there fails as on a full disk

    with pytest.raises(StoreError, match="No space left on device"):
        fetch(node, shelf, release)

    assert not list((shelf.folder / "incoming").iterdir())


def test_a_bundle_larger_than_the_disk_is_not_begun(node: Any, shelf: Shelf, new: Bundle) -> None:
    release = published(node, new)
    files = {**release.files, "huge.onnx": FileSeal(sha256="0" * 64, num_bytes=2**50)}

    with pytest.raises(StoreError, match=r"needs 1,12\d,\d+,\d+,\d+,\d+ bytes more in"):
        fetch(node, shelf, msgspec.structs.replace(release, files=files))


def test_a_bundle_under_another_ones_name_is_refused(node: Any, shelf: Shelf, new: Bundle) -> None:
    release = published(node, new)
    posing = msgspec.structs.replace(release, revision="0" * 16)
    for file, number in release.chunks():
        with (new.directory / file).open("rb") as source:
            source.seek(number * release.chunk_bytes)
            part = source.read(release.chunk_bytes)
        node.publish(TOPICS.chunk(posing.revision, file, number), part, is_retained=True)

    with pytest.raises(ArtifactError, match=f"announced as {'0' * 16} is {new.revision}"):
        fetch(node, shelf, posing)
