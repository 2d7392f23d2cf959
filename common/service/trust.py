"""Which bundles this process believes."""

import shutil
from pathlib import Path

import msgspec

from common.config.settings import Model
from common.errors import ConfigError
from common.model.bundle import AnyBundle, Gate
from common.store.vault import NoVault, Vault


def open_vault(setting: str, key_file: str | None) -> Vault:
    """Give what encrypts on the way to the disk; nothing does where no key is named.

    Raises:
        ConfigError: The key cannot be read, or cryptography is not installed.
    """
    if key_file is None:
        return NoVault()
    try:
        from common.certificates.at_rest import KeyVault  # noqa: PLC0415 - cryptography is an extra
    except ModuleNotFoundError as exc:
        raise ConfigError(f"{setting} needs the extra: pip install 'dimee[security]'") from exc
    return KeyVault.read(setting, key_file)


def bundle_gate(settings: Model) -> Gate:
    """Give the gate that every bundle passes before anything of it is read.

    Raises:
        ConfigError: The trusted key cannot be read, has no file for its history, or cryptography is not installed.
    """
    if settings.trusted_key_file is None:
        return AnyBundle()
    if settings.release_file is None:
        raise ConfigError(
            "model.trusted_key_file is set and model.release_file is not; it remembers the newest release, "
            "so that an older one cannot come back unnoticed"
        )
    try:
        from common.certificates import files, releases  # noqa: PLC0415 - cryptography is an extra
    except ModuleNotFoundError as exc:
        raise ConfigError("model.trusted_key_file needs the extra: pip install 'dimee[security]'") from exc
    return releases.SignedGate(
        files.read_verifying_key(Path(settings.trusted_key_file)),
        Path(settings.release_file),
        is_rollback_allowed=settings.is_rollback_allowed,
    )


def trial_gate(settings: Model, scratch: Path) -> Gate:
    """Give a gate that refuses the same bundles, and remembers nothing of those it lets in.

    A bundle that is tried must not shut the way back; only what is settled on goes through ``bundle_gate``.

    Args:
        settings: As for ``bundle_gate``.
        scratch: Where a copy of the history may lie.

    Raises:
        ConfigError: As ``bundle_gate``.
    """
    if settings.trusted_key_file is None or settings.release_file is None:
        return bundle_gate(settings)
    return _TrialGate(settings, scratch)


class _TrialGate:
    def __init__(self, settings: Model, scratch: Path) -> None:
        self._settings = settings
        self._scratch = scratch

    def check(self, directory: Path, manifest: bytes) -> None:
        """Ask the node's own gate, on a copy of its history."""
        self._scratch.unlink(missing_ok=True)
        history = Path(str(self._settings.release_file))
        if history.exists():
            shutil.copyfile(history, self._scratch)
        bundle_gate(msgspec.structs.replace(self._settings, release_file=str(self._scratch))).check(directory, manifest)
