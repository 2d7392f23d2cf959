"""Published bundles from the broker onto the shelf, part by part; a cut costs the part that was on its way."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

from common.errors import ArtifactError, StoreError, TransportError
from common.model.bundle import Bundle, Gate, seal
from common.model.rollout import Release
from common.model.shelf import Shelf
from common.transport.contract import Inbox, Transport
from common.wire.topics import Topics

_LOGGER = logging.getLogger(__name__)
_CHUNK_LIMIT_S = 15.0
_LOOK_S = 0.5


class Fetcher:
    """Asks for one part at a time: its retained message comes when its topic is subscribed."""

    def __init__(self, transport: Transport, topics: Topics, shelf: Shelf) -> None:
        self._transport = transport
        self._topics = topics
        self._shelf = shelf

    def fetch(
        self, release: Release, gate: Gate, *, is_wanted: Callable[[], bool], tell: Callable[[float], None]
    ) -> Path:
        """Bring a release onto the shelf, verified whole; go on where an earlier attempt was cut.

        Args:
            release: What to fetch.
            gate: Decides whether the bundle is believed.
            is_wanted: Asked between parts; False gives up.
            tell: Told the share that is there.

        Raises:
            TransportError: Its parts do not come, or it is not wanted any more.
            StoreError: The disk does not take it; what was gathered is dropped, so that others have room.
            ArtifactError: What came is not what was announced, or the gate refuses it.
        """
        if self._shelf.has(release):
            return self._shelf.bundle(release.revision)
        try:
            folder = self._shelf.staging(release)
            done = 0
            for name, expected in release.files.items():
                self._fetch_file(release, name, folder / name, is_wanted)
                done += expected.num_bytes
                tell(done / release.num_bytes)
            _check(folder, release, gate)
            return self._shelf.complete(release.revision)
        except OSError as exc:
            self._shelf.discard(release.revision)
            raise StoreError(f"bundle {release.revision} cannot be kept in {self._shelf.folder}: {exc}") from exc
        except ArtifactError:
            self._shelf.discard(release.revision)
            raise

    def _fetch_file(self, release: Release, name: str, path: Path, is_wanted: Callable[[], bool]) -> None:
        is_resumed = path.exists()
        self._gather(release, name, path, is_wanted)
        if is_resumed and seal(path) != release.files[name]:  # a cut of power may leave blocks unwritten
            path.unlink()
            self._gather(release, name, path, is_wanted)
        if (found := seal(path)) != release.files[name]:
            raise ArtifactError(
                f"{name} of bundle {release.revision} is not what was announced: sha256 {found.sha256[:12]}…, "
                f"expected {release.files[name].sha256[:12]}…"
            )

    def _gather(self, release: Release, name: str, path: Path, is_wanted: Callable[[], bool]) -> None:
        with path.open("ab") as file:
            if file.tell() >= release.files[name].num_bytes:
                return
            there = file.tell() // release.chunk_bytes
            if file.tell() != there * release.chunk_bytes:  # the last part was cut
                file.truncate(there * release.chunk_bytes)
            for number in range(there, release.num_chunks(name)):
                file.write(self._chunk(self._topics.chunk(release.revision, name, number), is_wanted))
                file.flush()
            os.fsync(file.fileno())

    def _chunk(self, topic: str, is_wanted: Callable[[], bool]) -> bytes:
        inbox = Inbox(8)
        self._transport.subscribe(topic, inbox)
        try:
            for _ in range(round(_CHUNK_LIMIT_S / _LOOK_S)):
                if not is_wanted():
                    raise TransportError("the bundle is not wanted any more")
                delivery = inbox.get(_LOOK_S)
                if delivery is not None and delivery.payload:
                    return delivery.payload
        finally:
            self._transport.unsubscribe(topic)
        raise TransportError(f"nothing came on {topic} within {_CHUNK_LIMIT_S:.0f} s")


def _check(folder: Path, release: Release, gate: Gate) -> None:
    bundle = Bundle(folder, gate)
    if bundle.revision != release.revision:
        raise ArtifactError(f"bundle announced as {release.revision} is {bundle.revision}")
    bundle.verify()
