"""Encryption of what lies on disk, under one key of a file or a systemd credential.

Each value has a key of its own, derived from the file's with 32 random bytes, so that no nonce can come twice; the
row's id is associated data, so that values cannot change places.
"""

import base64
import binascii
import hashlib
import os
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from common.certificates import files
from common.errors import ConfigError, StoreError

_KEY_BYTES = _SALT_BYTES = 32
MARK = "sealed1:"  # what a sealed text begins with; a text without it was written before there was a key
_CREDENTIAL = "credential:"
_SEALED = MARK.encode()


class KeyVault:
    """A vault with one key (see ``Vault``)."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def read(cls, setting: str, location: str) -> "KeyVault":
        """Read the key from a file, or from systemd where the location is ``credential:NAME``.

        Raises:
            ConfigError: There is none, or it is no key of 'dimee certs vault'.
        """
        path = Path(location)
        if location.startswith(_CREDENTIAL):
            folder = os.environ.get("CREDENTIALS_DIRECTORY")
            if folder is None:
                raise ConfigError(f"{setting}: {location!r} needs LoadCredential= in the service's unit")
            path = Path(folder) / location.removeprefix(_CREDENTIAL)
        try:
            key = base64.b64decode(files.read(path).strip(), validate=True)
        except (binascii.Error, ValueError) as exc:
            raise ConfigError(f"{setting}: {path} holds no key; make one with 'dimee certs vault'") from exc
        if len(key) != _KEY_BYTES:
            raise ConfigError(f"{setting}: {path} holds {len(key)} bytes, a key has {_KEY_BYTES}")
        return cls(key)

    def seal_text(self, text: str | None, bound: str) -> str | None:
        """Seal a text to the row that ``bound`` names."""
        return None if text is None else MARK + base64.b64encode(self._seal(text.encode(), bound)).decode()

    def open_text(self, text: str | None, bound: str) -> str | None:
        """Open it again; a text from before the key stays as it is."""
        if text is None or not text.startswith(MARK):
            return text
        return self._open(base64.b64decode(text.removeprefix(MARK)), bound).decode()

    def seal(self, content: bytes, bound: str) -> bytes:
        """Seal bytes."""
        return _SEALED + self._seal(content, bound)

    def open(self, content: bytes, bound: str) -> bytes:
        """Open them again; bytes from before the key stay as they are."""
        return self._open(content[len(_SEALED) :], bound) if content.startswith(_SEALED) else content

    def _seal(self, plain: bytes, bound: str) -> bytes:
        salt = os.urandom(_SALT_BYTES)
        return salt + self._cipher(salt).encrypt(bytes(12), plain, bound.encode())

    def _open(self, sealed: bytes, bound: str) -> bytes:
        try:
            cipher = self._cipher(sealed[:_SALT_BYTES])
            return cipher.decrypt(bytes(12), sealed[_SALT_BYTES:], bound.encode())
        except InvalidTag as exc:
            raise StoreError(f"what is kept for {bound!r} does not open: it is of another key, or altered") from exc

    def _cipher(self, salt: bytes) -> ChaCha20Poly1305:
        return ChaCha20Poly1305(hashlib.blake2s(salt, key=self._key).digest())


def make_key(path: Path) -> None:
    """Write a new key, for its owner alone to read.

    Raises:
        ConfigError: The file exists already, or its folder does not.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be written: {exc.strerror}; a key is never overwritten") from exc
    with os.fdopen(descriptor, "wb") as file:
        file.write(base64.b64encode(os.urandom(_KEY_BYTES)) + b"\n")
