"""Keys and certificates on disk: secrets are only ever readable by their owner, and never half written."""

import os
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from common.errors import ConfigError

PrivateKey = Ed25519PrivateKey | X25519PrivateKey
_SECRET_MODE = 0o600
_PUBLIC_MODE = 0o644


def write_secret(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read, whole or not at all."""
    _write(path, content, _SECRET_MODE)


def write_public(path: Path, content: bytes) -> None:
    """Write a file that everybody may read, whole or not at all."""
    _write(path, content, _PUBLIC_MODE)


def private_pem(key: PrivateKey) -> bytes:
    """Give a private key as PEM."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def public_pem(key: Ed25519PublicKey) -> bytes:
    """Give a public key as PEM."""
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def certificate_pem(certificate: x509.Certificate) -> bytes:
    """Give a certificate as PEM."""
    return certificate.public_bytes(Encoding.PEM)


def read_certificates(path: Path) -> list[x509.Certificate]:
    """Read the certificates of a PEM file, at least one.

    Raises:
        ConfigError: The file cannot be read or holds none.
    """
    try:
        return x509.load_pem_x509_certificates(read(path))
    except ValueError as exc:
        raise ConfigError(f"{path} holds no PEM certificate") from exc


def read_signing_key(path: Path) -> Ed25519PrivateKey:
    """Read an Ed25519 private key.

    Raises:
        ConfigError: The file cannot be read or holds another key.
    """
    key = _private(path)
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{path} holds no Ed25519 private key")
    return key


def read_agreement_key(path: Path) -> X25519PrivateKey:
    """Read an X25519 private key.

    Raises:
        ConfigError: The file cannot be read or holds another key.
    """
    key = _private(path)
    if not isinstance(key, X25519PrivateKey):
        raise ConfigError(f"{path} holds no X25519 private key")
    return key


def read_verifying_key(path: Path) -> Ed25519PublicKey:
    """Read an Ed25519 public key, from a public key's or a certificate's PEM.

    Raises:
        ConfigError: The file cannot be read or holds another key.
    """
    content = read(path)
    try:
        is_certificate = b"BEGIN CERTIFICATE" in content
        key = x509.load_pem_x509_certificate(content).public_key() if is_certificate else load_pem_public_key(content)
    except ValueError as exc:
        raise ConfigError(f"{path} holds no PEM public key") from exc
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(f"{path} holds no Ed25519 public key")
    return key


def read(path: Path) -> bytes:
    """Read a file whole.

    Raises:
        ConfigError: It cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as exc:
        raise ConfigError(f"{path} cannot be read: {exc.strerror}") from exc


def _private(path: Path) -> object:
    content = read(path)
    try:
        return load_pem_private_key(content, password=None)
    except (ValueError, TypeError) as exc:
        raise ConfigError(f"{path} holds no unencrypted PEM private key") from exc


def _write(path: Path, content: bytes, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(file.fileno(), mode)  # whatever the umask says
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
