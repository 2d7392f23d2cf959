"""Who signs a tier's outcomes, and who checks them for a device: by the certificate of the channel or of TLS."""

import logging
from typing import TYPE_CHECKING

from common.config.settings import CloudSettings, DeviceSettings, EdgeSettings
from common.errors import ConfigError
from common.service.channels import node_file, revocations

if TYPE_CHECKING:
    from common.channel.signatures import OutcomeSigner, OutcomeVerifier

_LOGGER = logging.getLogger(__name__)


def open_signer(settings: EdgeSettings | CloudSettings) -> "OutcomeSigner | None":
    """Give what signs this tier's outcomes; None where it has no certificate that can."""
    try:
        from common.channel.identity import Identity  # noqa: PLC0415 - cryptography is an extra
        from common.channel.signatures import OutcomeSigner  # noqa: PLC0415

        identity = Identity.read(node_file(settings, "certificate_file"), node_file(settings, "key_file"))
    except (ModuleNotFoundError, ConfigError) as exc:
        _LOGGER.debug("devices that need signatures are refused: %s", exc)
        return None
    if identity.name != settings.node.id:
        _LOGGER.warning("nothing is signed: the certificate is for %r, node.id %r", identity.name, settings.node.id)
        return None
    return OutcomeSigner(identity)


def open_verifier(settings: DeviceSettings) -> "OutcomeVerifier":
    """Give what checks the outcomes that a device gets.

    Raises:
        ConfigError: The authority's certificate is missing or wrong, or cryptography is not installed.
    """
    try:
        from common.channel.identity import Trust  # noqa: PLC0415 - cryptography is an extra
        from common.channel.signatures import OutcomeVerifier  # noqa: PLC0415
    except ModuleNotFoundError as exc:
        raise ConfigError("device.needs_signatures needs the extra: pip install 'dimee[security]'") from exc
    trust = Trust.read(node_file(settings, "ca_file"), revocations(settings.channel))
    return OutcomeVerifier(trust, settings.node.id)
