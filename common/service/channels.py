"""Which channel this process speaks through."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from common.channel.contract import Channel, Plain
from common.config.settings import AnySettings
from common.config.settings import Channel as ChannelSettings
from common.errors import ConfigError
from common.types import Tier
from common.wire.topics import Topics

if TYPE_CHECKING:
    from common.channel.outgoing import Sender


def open_channel(settings: AnySettings, tier: Tier) -> Channel:
    """Give the channel that the settings name.

    Raises:
        ConfigError: A file of the sealed channel is missing or wrong, or cryptography is not installed.
    """
    if settings.channel.name == "plain":
        return Plain()
    try:
        return _device(settings) if tier is Tier.DEVICE else _tier(settings, tier)
    except ModuleNotFoundError as exc:
        raise ConfigError("channel.name = 'sealed' needs the extra: pip install 'dimee[security]'") from exc


def _device(settings: AnySettings) -> Channel:
    from common.channel.sealed import SealedDevice  # noqa: PLC0415 - cryptography is an extra

    counts: Counter[str] = Counter()
    sender = _sender(settings, (Tier.EDGE, Tier.CLOUD), counts)
    topics, node = Topics(settings.mqtt.site), settings.node.id
    plain = (topics.input(node), topics.answer(node)) if settings.channel.has_plain_inputs else ()
    return SealedDevice(topics, sender, counts, plain=frozenset(plain))


def _tier(settings: AnySettings, tier: Tier) -> Channel:
    from common.channel.identity import TierSecrets, Trust  # noqa: PLC0415
    from common.channel.incoming import Receiver  # noqa: PLC0415
    from common.channel.sealed import SealedTier  # noqa: PLC0415
    from common.channel.sessions import SessionTable  # noqa: PLC0415

    channel, counts = settings.channel, Counter[str]()
    if channel.tier_key_folder is None:
        raise ConfigError(f"channel.tier_key_folder is missing; make the tier's key with 'dimee certs seal {tier}'")
    trust = Trust.read(node_file(settings, "ca_file"), revocations(channel))
    secrets = TierSecrets(Path(channel.tier_key_folder))
    sender = _sender(settings, (Tier.CLOUD,), counts) if tier is Tier.EDGE else None
    receiver = Receiver(SessionTable(trust, secrets, tier, lifetime_s=channel.session_s))
    return SealedTier(Topics(settings.mqtt.site), receiver, sender, tier_key=secrets.announced, counts=counts)


def _sender(settings: AnySettings, tiers: tuple[Tier, ...], counts: Counter[str]) -> "Sender":
    from common.channel.identity import Identity, Trust  # noqa: PLC0415
    from common.channel.outgoing import Sender  # noqa: PLC0415

    identity = Identity.read(node_file(settings, "certificate_file"), node_file(settings, "key_file"))
    if identity.name != settings.node.id:
        raise ConfigError(
            f"node.id is {settings.node.id!r} and the certificate is for {identity.name!r}; a sealed node is its "
            "certificate's name ('dimee device ask' beside a running device needs a certificate of its own)"
        )
    trust = Trust.read(node_file(settings, "ca_file"), revocations(settings.channel))
    return Sender(identity, trust, tiers, session_s=settings.channel.session_s, counts=counts)


def node_file(settings: AnySettings, key: str) -> Path:
    """Give a file of the channel, by default the one that TLS uses.

    Raises:
        ConfigError: Neither is set.
    """
    name = getattr(settings.channel, key) or getattr(settings.mqtt, f"tls_{key}")
    if name is None:
        raise ConfigError(f"channel.{key} is missing, and so is mqtt.tls_{key}; see 'dimee certs issue'")
    return Path(name)


def revocations(channel: ChannelSettings) -> Path | None:
    """Give the authority's revocation list, if there is one."""
    return None if channel.crl_file is None else Path(channel.crl_file)
