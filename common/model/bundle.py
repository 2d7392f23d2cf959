"""A bundle on disk: found, checked against its hashes, opened in parts."""

import hashlib
from importlib.resources import files
from pathlib import Path
from typing import Protocol

from common.errors import ArtifactError, ConfigError
from common.model import manifest as manifests
from common.model.manifest import FileSeal, Manifest

SHIPPED = "shipped"
_CHUNK_BYTES = 1 << 20


class Gate(Protocol):
    """Decides which bundles are believed."""

    def check(self, directory: Path, manifest: bytes) -> None:
        """Refuse a bundle by the bytes of its manifest, before they are parsed.

        Raises:
            ArtifactError: It is not to be believed.
        """
        ...


class AnyBundle:
    """Believes every bundle that is intact."""

    def check(self, directory: Path, manifest: bytes) -> None:
        """Refuse nothing."""


class Bundle:
    """A bundle whose manifest is valid; every file is checked against its hash when it is first asked for."""

    def __init__(self, directory: Path, gate: Gate | None = None) -> None:
        source = directory / manifests.MANIFEST_FILE
        try:
            document = source.read_bytes()
        except OSError as exc:
            raise ArtifactError(f"{directory} is no bundle: {manifests.MANIFEST_FILE} cannot be read") from exc
        (gate or AnyBundle()).check(directory, document)
        self.directory = directory
        self.manifest: Manifest = manifests.parse(document, str(source))
        self._intact: set[str] = set()

    @property
    def revision(self) -> str:
        """Name this bundle's contents."""
        return self.manifest.revision

    def path(self, name: str) -> Path:
        """Give the path of an intact file.

        Raises:
            ArtifactError: The file is not of this bundle, missing, or altered.
        """
        seal = self.manifest.files.get(name)
        if seal is None:
            raise ArtifactError(f"bundle {self.directory} has no file {name!r}; it holds {sorted(self.manifest.files)}")
        path = self.directory / name
        if name not in self._intact:
            _check(path, seal)
            self._intact.add(name)
        return path

    def read(self, name: str) -> bytes:
        """Read an intact file whole."""
        return self.path(name).read_bytes()

    def verify(self) -> None:
        """Check every file.

        Raises:
            ArtifactError: A file is missing or altered; its name is in the message.
        """
        for name in self.manifest.files:
            self.path(name)


def open_bundle(location: str | Path = SHIPPED, gate: Gate | None = None) -> Bundle:
    """Open the bundle in a directory, or the shipped one, if the gate lets it in.

    Raises:
        ConfigError: There is no such directory.
        ArtifactError: It is no intact bundle, or the gate refuses it.
    """
    if str(location) == SHIPPED:
        return Bundle(Path(str(files("common.model"))) / "bundles" / "sst2", gate)
    directory = Path(location).expanduser()
    if not directory.is_dir():
        raise ConfigError(
            f"bundle {str(location)!r} is no directory; give one made by 'dimee model export', or 'shipped'"
        )
    return Bundle(directory, gate)


def seal(path: Path) -> FileSeal:
    """Hash a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return FileSeal(sha256=digest.hexdigest(), num_bytes=path.stat().st_size)


def _check(path: Path, expected: FileSeal) -> None:
    try:
        found = seal(path)
    except OSError as exc:
        raise ArtifactError(f"bundle file {path} cannot be read: {exc.strerror}") from exc
    if found != expected:
        raise ArtifactError(
            f"bundle file {path} is altered: expected {expected.num_bytes} bytes, sha256 {expected.sha256[:12]}…, "
            f"found {found.num_bytes} bytes, {found.sha256[:12]}…; fetch the bundle again"
        )
