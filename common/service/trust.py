"""Which bundles this process believes."""

from pathlib import Path

from common.config.settings import Model
from common.errors import ConfigError
from common.model.bundle import AnyBundle, Gate


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
