"""Who we are and whom we believe: certificates of the site's authority, checked offline."""

import base64
import binascii
import datetime as dt
import hashlib
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding

from common.certificates import files
from common.certificates.names import Role, name_of, role_of
from common.errors import ArtifactError, ConfigError, WireError

KEY_ID_BYTES = 16


@dataclass(frozen=True, slots=True)
class Peer:
    """A node whose certificate holds."""

    name: str
    role: Role
    key: Ed25519PublicKey


@dataclass(frozen=True, slots=True)
class TierKey:
    """The public key of a tier, as its workers announce it."""

    key_id: bytes
    key: X25519PublicKey
    starts: dt.datetime


@dataclass(frozen=True, slots=True)
class Identity:
    """This node's certificate and the key that belongs to it."""

    name: str
    certificate: bytes  # DER
    key: Ed25519PrivateKey

    @classmethod
    def read(cls, certificate_file: Path, key_file: Path) -> "Identity":
        """Read them from their files.

        Raises:
            ConfigError: A file cannot be read, or the key is not the certificate's.
        """
        certificate, *_ = files.read_certificates(certificate_file)
        key = files.read_signing_key(key_file)
        if certificate.public_key() != key.public_key():
            raise ConfigError(f"{key_file} is not the key of {certificate_file}")
        return cls(name_of(certificate), certificate.public_bytes(Encoding.DER), key)


class Trust:
    """The site's authority, and what it has revoked."""

    def __init__(self, authority: x509.Certificate, revoked: frozenset[int] = frozenset()) -> None:
        """Trust one authority alone."""
        key = authority.public_key()
        if not isinstance(key, Ed25519PublicKey):
            raise ConfigError("the sealed channel needs an authority of 'dimee certs init' (Ed25519)")
        self._authority = authority
        self._key = key
        self._revoked = revoked

    @classmethod
    def read(cls, ca_file: Path, crl_file: Path | None) -> "Trust":
        """Read the authority, and its revocation list if there is one.

        Raises:
            ConfigError: A file cannot be read, or the list is not the authority's.
        """
        authority, *_ = files.read_certificates(ca_file)
        trust = cls(authority)
        if crl_file is not None:
            try:
                crl = x509.load_pem_x509_crl(files.read(crl_file))
            except ValueError as exc:
                raise ConfigError(f"{crl_file} holds no PEM revocation list") from exc
            if not crl.is_signature_valid(trust._key):
                raise ConfigError(f"{crl_file} is not signed by the authority of {ca_file}")
            trust._revoked = frozenset(entry.serial_number for entry in crl)
        return trust

    def peer(self, certificate: bytes) -> Peer:
        """Check a node's certificate (DER).

        Raises:
            WireError: It is not of this authority, not valid now, revoked, or of the wrong kind.
        """
        parsed = self._checked(certificate)
        key, role = parsed.public_key(), _role(parsed)
        if not isinstance(key, Ed25519PublicKey):
            raise WireError(f"certificate of role {role} holds no Ed25519 key")
        return Peer(_name(parsed), role, key)

    def tier_key(self, announced: str, tier: str) -> TierKey:
        """Check the key that a tier announces (base64 of a DER certificate).

        Raises:
            WireError: It is no sealing key of this tier.
        """
        try:
            certificate = base64.b64decode(announced, validate=True)
        except (binascii.Error, ValueError) as exc:
            raise WireError("announced key is no base64") from exc
        parsed = self._checked(certificate)
        key = parsed.public_key()
        if not isinstance(key, X25519PublicKey) or _role(parsed) is not Role.SEAL or _name(parsed) != tier:
            raise WireError(f"certificate is no sealing key of tier {tier}")
        return TierKey(key_id(certificate), key, parsed.not_valid_before_utc)

    def _checked(self, certificate: bytes) -> x509.Certificate:
        try:
            parsed = x509.load_der_x509_certificate(certificate)
            self._key.verify(parsed.signature, parsed.tbs_certificate_bytes)
            is_ours = parsed.issuer == self._authority.subject
        except Exception as exc:  # anybody's bytes, and the parser raises whatever it meets
            raise WireError("certificate is not signed by this site's authority") from exc
        now = dt.datetime.now(dt.UTC)
        if not is_ours or not parsed.not_valid_before_utc <= now < parsed.not_valid_after_utc:
            raise WireError(f"certificate is valid until {parsed.not_valid_after_utc:%Y-%m-%d %H:%M}, not now")
        if parsed.serial_number in self._revoked:
            raise WireError(f"certificate {parsed.serial_number:x} is revoked")
        return parsed


class TierSecrets:
    """A tier's sealing keys, shared by its workers: the one in use and the one before."""

    def __init__(self, folder: Path) -> None:
        """Read the folder that 'dimee certs seal' makes.

        Raises:
            ConfigError: A file cannot be read, or a key is not its certificate's.
        """
        self._keys: dict[bytes, X25519PrivateKey] = {}
        newest = _read_pair(folder, "")
        self.announced = base64.b64encode(newest[0]).decode()
        self._keys[key_id(newest[0])] = newest[1]
        if (folder / "previous-key.pem").exists():
            certificate, key = _read_pair(folder, "previous-")
            self._keys[key_id(certificate)] = key

    def find(self, wanted: bytes) -> X25519PrivateKey:
        """Give the private key of this id.

        Raises:
            WireError: There is none; it was rotated away.
        """
        key = self._keys.get(wanted)
        if key is None:
            raise WireError(f"sealed to tier key {wanted.hex()}, which this worker does not hold")
        return key


def key_id(certificate: bytes) -> bytes:
    """Name a tier key by its certificate (DER)."""
    return hashlib.sha256(certificate).digest()[:KEY_ID_BYTES]


def _read_pair(folder: Path, prefix: str) -> tuple[bytes, X25519PrivateKey]:
    certificate, *_ = files.read_certificates(folder / f"{prefix}certificate.pem")
    key = files.read_agreement_key(folder / f"{prefix}key.pem")
    if certificate.public_key() != key.public_key():
        raise ConfigError(f"{folder}/{prefix}key.pem is not the key of its certificate")
    return certificate.public_bytes(Encoding.DER), key


def _name(certificate: x509.Certificate) -> str:
    try:
        return name_of(certificate)
    except ArtifactError as exc:
        raise WireError(str(exc)) from exc


def _role(certificate: x509.Certificate) -> Role:
    try:
        return role_of(certificate)
    except ArtifactError as exc:
        raise WireError(str(exc)) from exc
