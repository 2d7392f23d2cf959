"""TLS on both ends of the connection to a broker, on Python's own ssl; plain MQTT stays here unless it is allowed."""

import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

from common.config.settings import Mqtt
from common.errors import ConfigError
from common.transport.access import AccessList

_BROKER_FILES = ("ca.pem", "certificate.pem", "key.pem", "crl.pem", "acl")


def tls_context(settings: Mqtt) -> ssl.SSLContext | None:
    """Give the context that the settings ask for; None for plain MQTT.

    Raises:
        ConfigError: A file is missing or no PEM, a key comes without its certificate or does not belong to it, or the
            broker is beyond loopback and neither ``mqtt.tls_ca_file`` nor ``mqtt.is_insecure_allowed`` is set.
    """
    if settings.tls_ca_file is None:
        _check_plain(settings)
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks the chain and the broker's name
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(_file("mqtt.tls_ca_file", settings.tls_ca_file))
    except ssl.SSLError as exc:
        raise ConfigError(f"mqtt.tls_ca_file: {settings.tls_ca_file} holds no PEM certificate: {exc.reason}") from exc
    _load_identity(context, settings)
    return context


@dataclass(frozen=True, slots=True, kw_only=True)
class Protection:
    """What keeps strangers out of an embedded broker, and its clients apart."""

    tls: ssl.SSLContext  # asks for a certificate that is not revoked
    access: AccessList  # by the certificate's name


def read_protection(folder: Path) -> Protection:
    """Read a broker's folder: its certificate and key, authority, revocation list, and access list.

    Raises:
        ConfigError: A file is missing or is not what its name says.
    """
    paths = {name: _file("broker.tls_folder", str(folder / name)) for name in _BROKER_FILES}
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    for name in ("ca.pem", "crl.pem"):
        try:
            context.load_verify_locations(paths[name])
        except ssl.SSLError as exc:
            raise ConfigError(f"broker.tls_folder: {paths[name]} holds no PEM: {exc.reason}") from exc
    _load_pair(context, "broker.tls_folder", paths["certificate.pem"], paths["key.pem"])
    return Protection(tls=context, access=AccessList.read(paths["acl"]))


def is_loopback(host: str) -> bool:
    """Whether a name or an address certainly means this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_plain(settings: Mqtt) -> None:
    for key in ("tls_certificate_file", "tls_key_file"):
        if getattr(settings, key) is not None:
            raise ConfigError(f"mqtt.{key} is set and mqtt.tls_ca_file is not; TLS needs the authority to trust")
    if not is_loopback(settings.host) and not settings.is_insecure_allowed:
        raise ConfigError(
            f"mqtt.host {settings.host!r} is beyond loopback and the connection would be plain: anybody on the way "
            "could read and forge messages; set mqtt.tls_ca_file (see 'dimee certs init'), or accept the risk with "
            "mqtt.is_insecure_allowed = true"
        )


def _load_identity(context: ssl.SSLContext, settings: Mqtt) -> None:
    certificate, key = settings.tls_certificate_file, settings.tls_key_file
    if certificate is None and key is None:
        return
    if certificate is None or key is None:
        raise ConfigError("mqtt.tls_certificate_file and mqtt.tls_key_file belong together; set both or none")
    certificate_path = _file("mqtt.tls_certificate_file", certificate)
    key_path = _file("mqtt.tls_key_file", key)
    _load_pair(context, "mqtt.tls_key_file", certificate_path, key_path)


def _load_pair(context: ssl.SSLContext, setting: str, certificate: Path, key: Path) -> None:
    try:
        context.load_cert_chain(certificate, key, password="")  # else OpenSSL asks the terminal
    except (ssl.SSLError, ValueError) as exc:
        raise ConfigError(f"{setting}: {key} is not the unencrypted PEM key of {certificate}: {exc}") from exc


def _file(key: str, name: str) -> Path:
    path = Path(name)
    try:
        path.open("rb").close()
    except OSError as exc:
        raise ConfigError(f"{key}: {name} cannot be read: {exc.strerror}") from exc
    return path
