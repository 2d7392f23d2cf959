"""A node's folder of published bundles: complete ones, those on their way, and which one is in use.

``bundles/REVISION`` appears by one rename when everything in it is verified; ``choice.json`` is replaced whole. A
process that dies at any moment leaves what was there before, or what is there after.
"""

import os
import shutil
from collections.abc import Collection
from pathlib import Path

import msgspec

from common.errors import StoreError
from common.model.bundle import seal
from common.model.rollout import SIGNATURE_FILE, Release, Revision, Rollout

_MAX_REFUSED = 16
_SPARE_BYTES = 16 << 20  # left free for the log and everything else


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """What a node has settled on."""

    current: Revision | None = None  # None: the bundle of the settings
    previous: Revision | None = None  # likewise; what a trial that fails goes back to
    is_on_trial: bool = False
    starts: int = 0  # of the process, during the trial
    proven: tuple[Revision, ...] = ()  # that passed a trial here
    refused: dict[str, str] = {}  # revision, or one publication of it, and why; not tried again
    rollout: Rollout = Rollout()  # the last that was heard of

    def refuses(self, release: Release) -> bool:
        """Whether a release was refused, as it was published or whatever it came in."""
        return release.revision in self.refused or release.publication in self.refused

    def why_refused(self, release: Release) -> str:
        """Give the reason."""
        return self.refused.get(release.revision) or self.refused.get(release.publication, "")

    def refusing(self, name: str, reason: str) -> "Choice":
        """Remember that a revision, or one publication of it, is not to be tried again."""
        kept = dict(list(self.refused.items())[-_MAX_REFUSED + 1 :])
        return msgspec.structs.replace(self, refused={**kept, name: reason[:400]})


class Shelf:
    """Bundles on a disk; used by one thread at a time."""

    def __init__(self, folder: Path) -> None:
        """Open or make the folder.

        Raises:
            StoreError: It cannot be made.
        """
        self.folder = folder
        try:
            for name in ("bundles", "incoming"):
                (folder / name).mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise StoreError(f"updates.folder: {folder} cannot be made: {exc.strerror}") from exc

    @property
    def choice(self) -> Choice:
        """What was chosen; the settings' bundle where nothing was, or where the file is damaged."""
        try:
            return msgspec.json.decode((self.folder / "choice.json").read_bytes(), type=Choice)
        except (OSError, msgspec.DecodeError):
            return Choice()

    def choose(self, choice: Choice) -> None:
        """Settle on something, for this process and the next ones.

        Raises:
            StoreError: It cannot be written; the former choice stands.
        """
        draft = self.folder / "choice.json.part"
        try:
            with draft.open("wb") as file:
                file.write(msgspec.json.encode(choice))
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self.folder / "choice.json")
            _sync(self.folder)
        except OSError as exc:
            raise StoreError(f"{self.folder / 'choice.json'} cannot be written: {exc.strerror}") from exc

    def bundle(self, revision: str) -> Path:
        """Name the folder of a complete bundle."""
        return self.folder / "bundles" / revision

    def has(self, release: Release) -> bool:
        """Whether a bundle is complete, under the signature that was published with it."""
        folder, signature = self.bundle(release.revision), release.files.get(SIGNATURE_FILE)
        return folder.is_dir() and (signature is None or seal(folder / SIGNATURE_FILE) == signature)

    def staging(self, release: Release) -> Path:
        """Give the folder that a release is gathered in, with what is there of it already.

        Raises:
            StoreError: There is no room for it.
        """
        folder = self.folder / "incoming" / release.revision
        try:
            folder.mkdir(exist_ok=True)
            missing = release.num_bytes - sum(file.stat().st_size for file in folder.iterdir())
            free = shutil.disk_usage(folder).free
        except OSError as exc:
            raise StoreError(f"{folder} cannot be made: {exc.strerror}") from exc
        if missing + _SPARE_BYTES > free:
            raise StoreError(
                f"bundle {release.revision} needs {missing:,} bytes more in {self.folder}, {free:,} are free"
            )
        return folder

    def complete(self, revision: str) -> Path:
        """Put a gathered bundle among the complete ones.

        Raises:
            StoreError: The disk does not take it.
        """
        source, target = self.folder / "incoming" / revision, self.bundle(revision)
        try:
            _sync(source)
            if target.exists():  # the same contents under an older signature
                target.replace(source.with_suffix(".old"))
            source.replace(target)
            _sync(target.parent)
        except OSError as exc:
            raise StoreError(f"{target} cannot be made: {exc.strerror}") from exc
        return target

    def discard(self, revision: str) -> None:
        """Drop what was gathered of a bundle."""
        shutil.rmtree(self.folder / "incoming" / revision, ignore_errors=True)

    def keep_only(self, revisions: Collection[str]) -> None:
        """Drop every other bundle, complete or not."""
        for folder in (*(self.folder / "bundles").iterdir(), *(self.folder / "incoming").iterdir()):
            if folder.name not in revisions:
                shutil.rmtree(folder, ignore_errors=True)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
