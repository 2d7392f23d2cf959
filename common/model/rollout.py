"""Which bundles a site runs: the document that an operator publishes and every node follows."""

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec

from common.errors import WireError
from common.model.bundle import Bundle, seal
from common.model.manifest import MANIFEST_FILE, FileName, FileSeal
from common.types import Fraction

MAX_CHUNK_BYTES = 1 << 20
SIGNATURE_FILE = "signature.json"
Revision = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{16}$")]
_MAX_BYTES = 65_536


class Release(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A published bundle: what its files must be, and in which parts they lie at the broker."""

    revision: Revision
    name: Annotated[str, msgspec.Meta(max_length=100)]
    files: Annotated[dict[FileName, FileSeal], msgspec.Meta(min_length=1, max_length=64)]
    chunk_bytes: Annotated[int, msgspec.Meta(ge=1024, le=MAX_CHUNK_BYTES)]
    sequence: Annotated[int, msgspec.Meta(ge=0)]  # of the rollout that it was published in

    @property
    def publication(self) -> str:
        """Name these contents as they were published this time: damage on the way is none of the bundle's."""
        return f"{self.revision}@{self.sequence}"

    @property
    def num_bytes(self) -> int:
        """Size of all files."""
        return sum(file.num_bytes for file in self.files.values())

    def num_chunks(self, file: str) -> int:
        """Count the parts of a file; an empty one has none."""
        return math.ceil(self.files[file].num_bytes / self.chunk_bytes)

    def chunks(self) -> Iterator[tuple[str, int]]:
        """Name every part: file and number."""
        return ((file, number) for file in self.files for number in range(self.num_chunks(file)))


class Rollout(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a site is to run. Edge and cloud serve every release that is named; a device runs one of them.

    Devices run ``stable``, or the bundle of their settings where there is none; those that ``share`` chooses run
    ``candidate``.
    """

    sequence: Annotated[int, msgspec.Meta(ge=0)] = 0  # grows with every change
    stable: Release | None = None
    candidate: Release | None = None
    previous: Release | None = None  # stable before; still served, and what a rollback returns to
    share: Fraction = 0.0  # of the devices, that run the candidate

    @property
    def releases(self) -> tuple[Release, ...]:
        """All that are named, each once, the one that will stay first."""
        named = {release.revision: release for release in (self.previous, self.stable, self.candidate) if release}
        order = (self.stable, self.candidate, self.previous)
        return tuple(named.pop(one.revision) for one in order if one and one.revision in named)

    def for_device(self, node: str) -> tuple[Release | None, ...]:
        """Give what a device should run, the best first; None is the bundle of its settings."""
        chosen = (self.candidate,) if self.candidate and is_chosen(node, self.share) else ()
        return (*chosen, self.stable) if self.stable is None else (*chosen, self.stable, None)


def is_chosen(node: str, share: float) -> bool:
    """Whether a device is among the first ``share``; the same ones are among every larger share."""
    digest = hashlib.sha256(node.encode()).digest()
    return int.from_bytes(digest[:8]) < share * 2**64


def describe(bundle: Bundle, *, chunk_bytes: int, sequence: int) -> Release:
    """Describe an intact bundle for publishing.

    Raises:
        ArtifactError: A file is missing or altered.
    """
    bundle.verify()
    extra = [name for name in (MANIFEST_FILE, SIGNATURE_FILE) if (bundle.directory / name).is_file()]
    seals = {name: seal(bundle.directory / name) for name in extra}
    manifest = bundle.manifest
    return Release(
        revision=bundle.revision,
        name=manifest.name,
        files=seals | manifest.files,
        chunk_bytes=chunk_bytes,
        sequence=sequence,
    )


def read_chunk(directory: Path, release: Release, file: str, number: int) -> bytes:
    """Read a part of a file."""
    with (directory / file).open("rb") as source:
        source.seek(number * release.chunk_bytes)
        return source.read(release.chunk_bytes)


def decode_rollout(payload: bytes) -> Rollout:
    """Read an announcement; an empty one names nothing.

    Raises:
        WireError: It is too large, or none.
    """
    if len(payload) > _MAX_BYTES:
        raise WireError(f"rollout of {len(payload)} bytes exceeds the limit of {_MAX_BYTES}")
    try:
        return msgspec.json.decode(payload, type=Rollout) if payload else Rollout()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise WireError(f"rollout refused: {exc}") from exc
