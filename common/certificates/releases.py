"""Signed bundles: an Ed25519 signature over the manifest's bytes and a release number, in a DSSE envelope.

The envelope is ``signature.json`` beside the manifest (github.com/secure-systems-lab/dsse, protocol.md). What is signed
is compared byte for byte; nothing of a bundle is parsed before its signature holds.
"""

import base64
import binascii
import hashlib
import logging
from pathlib import Path
from typing import Annotated

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from common.certificates import files
from common.errors import ArtifactError, ConfigError

SIGNATURE_FILE = "signature.json"
PAYLOAD_TYPE = "application/vnd.dimee.bundle+json"
_MAX_BYTES = 16_384
_LOGGER = logging.getLogger(__name__)
_Number = Annotated[int, msgspec.Meta(ge=1)]


class Release(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the signer vouches for."""

    name: str  # of the model; releases are counted by name
    release: _Number  # grows with every release
    manifest_sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]


class _Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keyid: str
    sig: str


class _Envelope(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    payloadType: str  # noqa: N815 - the name that DSSE gives it
    payload: str
    signatures: Annotated[tuple[_Signature, ...], msgspec.Meta(min_length=1, max_length=1)]


def make_release_key(folder: Path) -> tuple[Path, Path]:
    """Make the key pair that releases are signed with; give the private and the public file.

    Raises:
        ConfigError: There is one already.
    """
    private, public = folder / "release.key", folder / "release.pub"
    if private.exists():
        raise ConfigError(f"{private} exists; nodes that trust it would refuse what another key signs")
    key = Ed25519PrivateKey.generate()
    files.write_secret(private, files.private_pem(key))
    files.write_public(public, files.public_pem(key.public_key()))
    return private, public


def sign(directory: Path, name: str, release: int, key: Ed25519PrivateKey) -> Release:
    """Sign the manifest in a bundle's directory as a release of ``name``.

    Raises:
        ConfigError: The release number is below 1, or the manifest cannot be read.
    """
    if release < 1:
        raise ConfigError(f"--release {release} must be 1 or more, and grow with every release")
    digest = hashlib.sha256(files.read(directory / "manifest.json")).hexdigest()
    statement = Release(name=name, release=release, manifest_sha256=digest)
    payload = msgspec.json.encode(statement)
    signature = _Signature(key_id(key.public_key()), _text(key.sign(_preauthenticated(payload))))
    envelope = _Envelope(payloadType=PAYLOAD_TYPE, payload=_text(payload), signatures=(signature,))
    files.write_public(directory / SIGNATURE_FILE, msgspec.json.encode(envelope))
    return statement


def verified(directory: Path, manifest: bytes, key: Ed25519PublicKey) -> Release:
    """Check that ``key`` signed exactly this manifest, and give the release.

    Raises:
        ArtifactError: The signature is missing, malformed, of another key or of another manifest.
    """
    source = directory / SIGNATURE_FILE
    try:
        document = source.read_bytes()
    except OSError as exc:
        raise ArtifactError(f"bundle {directory} is not signed: {SIGNATURE_FILE} cannot be read") from exc
    payload, signature, signer = _open(document, source)
    if signer != key_id(key) or not _holds(key, signature, payload):
        raise ArtifactError(f"{source}: not signed by the trusted key {key_id(key)}; fetch the bundle again")
    try:
        release = msgspec.json.decode(payload, type=Release)
    except msgspec.DecodeError as exc:
        raise ArtifactError(f"{source}: signed, but no release statement: {exc}") from exc
    if hashlib.sha256(manifest).hexdigest() != release.manifest_sha256:
        raise ArtifactError(f"{directory}/manifest.json is not the one that was signed; fetch the bundle again")
    return release


def key_id(key: Ed25519PublicKey) -> str:
    """Name a public key for people: 16 hex digits of its hash."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]


class SignedGate:
    """Lets in what the trusted key signed, and nothing older than what ran here before."""

    def __init__(self, key: Ed25519PublicKey, history: Path, *, is_rollback_allowed: bool = False) -> None:
        """Remember in ``history`` the newest release of each model that was let in."""
        self._key = key
        self._history = history
        self._is_rollback_allowed = is_rollback_allowed

    def check(self, directory: Path, manifest: bytes) -> None:
        """Refuse a bundle that is not signed, altered, or older than one that ran here.

        Raises:
            ArtifactError: It is one of these.
            ConfigError: The history cannot be read or written.
        """
        release = verified(directory, manifest, self._key)
        newest = self._read()
        known = newest.get(release.name)
        if known is not None and _is_older(release, known):
            self._admit_rollback(release, known)
        if known != release:
            self._write({**newest, release.name: release})
        _LOGGER.info(
            "%s is release %d of %s, signed by %s", directory, release.release, release.name, key_id(self._key)
        )

    def _admit_rollback(self, release: Release, known: Release) -> None:
        story = f"release {release.release} of {release.name!r} would replace release {known.release}"
        if not self._is_rollback_allowed:
            raise ArtifactError(
                f"{story} that ran here ({self._history}); set model.is_rollback_allowed = true to go back to it"
            )
        _LOGGER.warning("%s: going back, as model.is_rollback_allowed says", story)

    def _read(self) -> dict[str, Release]:
        try:
            document = self._history.read_bytes()
        except FileNotFoundError:
            return {}
        except OSError as exc:
            raise ConfigError(f"model.release_file: {self._history} cannot be read: {exc.strerror}") from exc
        try:
            return msgspec.json.decode(document, type=dict[str, Release])
        except msgspec.DecodeError as exc:
            raise ConfigError(f"model.release_file: {self._history} is no history of releases: {exc}") from exc

    def _write(self, newest: dict[str, Release]) -> None:
        try:
            files.write_public(self._history, msgspec.json.encode(newest))
        except OSError as exc:
            raise ConfigError(f"model.release_file: {self._history} cannot be written: {exc.strerror}") from exc


def _is_older(release: Release, known: Release) -> bool:
    """Two different bundles under one number count as older: one of them must be wrong."""
    return release.release < known.release or (release.release == known.release and release != known)


def _open(document: bytes, source: Path) -> tuple[bytes, bytes, str]:
    """Give payload, signature and key id."""
    if len(document) > _MAX_BYTES:
        raise ArtifactError(f"{source}: {len(document)} bytes exceed the limit of {_MAX_BYTES}")
    try:
        envelope = msgspec.json.decode(document, type=_Envelope)
        payload = base64.b64decode(envelope.payload, validate=True)
        signature = base64.b64decode(envelope.signatures[0].sig, validate=True)
    except (msgspec.DecodeError, binascii.Error, ValueError) as exc:
        raise ArtifactError(f"{source}: no DSSE envelope: {exc}") from exc
    # one way to write it: else spare bits of base64 and JSON could change unnoticed
    same = msgspec.structs.replace(envelope, payload=_text(payload), signatures=(_again(envelope, signature),))
    if envelope.payloadType != PAYLOAD_TYPE or msgspec.json.encode(same) != document:
        raise ArtifactError(f"{source}: no DSSE envelope of a bundle in its canonical form")
    return payload, signature, envelope.signatures[0].keyid


def _holds(key: Ed25519PublicKey, signature: bytes, payload: bytes) -> bool:
    try:
        key.verify(signature, _preauthenticated(payload))
    except InvalidSignature:
        return False
    return True


def _again(envelope: _Envelope, signature: bytes) -> _Signature:
    return _Signature(envelope.signatures[0].keyid, _text(signature))


def _preauthenticated(payload: bytes) -> bytes:
    """Give DSSE's pre-authentication encoding (PAE)."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()
