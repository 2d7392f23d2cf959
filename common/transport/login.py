"""Where to connect and as whom, made from the settings."""

import ssl
from dataclasses import dataclass
from pathlib import Path

from common.config.settings import Mqtt
from common.errors import ConfigError
from common.transport.contract import Presence
from common.transport.outbox import Outgoing
from common.transport.tls import tls_context


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """Where to connect and as whom."""

    host: str
    port: int
    client_id: str
    username: str | None
    password: str | None
    keepalive_s: int
    max_packet_bytes: int  # the most we take in, told to the broker under MQTT 5
    will: Outgoing | None
    tls: ssl.SSLContext | None = None  # None: plain

    @property
    def broker(self) -> str:
        """Name the broker for people."""
        return f"broker {self.host}:{self.port}"


def login(settings: Mqtt, client_id: str, presence: Presence | None) -> Login:
    """Gather what CONNECT needs.

    Raises:
        ConfigError: The password file is missing, a password comes without a user, or the TLS settings are wrong.
    """
    if settings.password_file is not None and settings.username is None:
        raise ConfigError("mqtt.password_file is set and mqtt.username is not; a password needs its user")
    return Login(
        host=settings.host,
        port=settings.port,
        client_id=client_id,
        username=settings.username,
        password=None if settings.password_file is None else _password(Path(settings.password_file)),
        keepalive_s=settings.keepalive_s,
        max_packet_bytes=settings.max_packet_bytes,
        will=None if presence is None else announcement(presence.topic, presence.gone),
        tls=tls_context(settings),
    )


def _password(path: Path) -> str:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"mqtt.password_file: {path} cannot be read: {exc}") from exc
    if not lines or not lines[0]:
        raise ConfigError(f"mqtt.password_file: the first line of {path} is empty")
    return lines[0]


def announcement(topic: str, payload: bytes) -> Outgoing:
    """Make a status message: retained, and never sent late."""
    return Outgoing(topic=topic, payload=payload, is_retained=True, is_resent=False)
