"""Who a certificate is for: its common name is the node id, its organisational unit the role."""

import re
from enum import StrEnum

from cryptography import x509
from cryptography.x509.oid import NameOID

from common.errors import ArtifactError, ConfigError

_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # one level of a topic, a client id and a folder


class Role(StrEnum):
    """What a node may do; the access control of the broker and the sealed channel ask for it."""

    DEVICE = "device"
    EDGE = "edge"
    CLOUD = "cloud"
    BROKER = "broker"
    APPLICATION = "application"  # reads answers and statuses, sends inputs
    OPERATOR = "operator"  # publishes bundles for the site
    HOME_ASSISTANT = "home-assistant"  # sees what nodes show it, and chooses the operating point
    BRIDGE = "bridge"  # brings a site's requests to the broker beside the cloud workers, and outcomes back
    SEAL = "seal"  # the key that all workers of a tier share; its name is the tier's


def checked_node(name: str) -> str:
    """Pass a node's name on if a certificate can carry it.

    Raises:
        ConfigError: It is empty, too long, or holds other than letters, digits, dot, dash and underscore.
    """
    if not _NODE.fullmatch(name):
        raise ConfigError(
            f"node {name!r} cannot have a certificate: use 1-64 letters, digits, '.', '-' or '_', "
            "and begin with a letter or a digit"
        )
    return name


def subject(name: str, role: Role) -> x509.Name:
    """Give the subject of a node's certificate."""
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, role), x509.NameAttribute(NameOID.COMMON_NAME, name)]
    )


def name_of(certificate: x509.Certificate) -> str:
    """Give the node id that a certificate is for."""
    return _only(certificate, NameOID.COMMON_NAME)


def role_of(certificate: x509.Certificate) -> Role:
    """Give the role that a certificate grants.

    Raises:
        ArtifactError: It grants none that we know.
    """
    unit = _only(certificate, NameOID.ORGANIZATIONAL_UNIT_NAME)
    try:
        return Role(unit)
    except ValueError as exc:
        raise ArtifactError(f"certificate grants role {unit[:32]!r}, which is none of {', '.join(Role)}") from exc


def _only(certificate: x509.Certificate, attribute: x509.ObjectIdentifier) -> str:
    values = certificate.subject.get_attributes_for_oid(attribute)
    if len(values) != 1:
        raise ArtifactError(f"certificate has {len(values)} subject attributes {attribute._name}; it needs one")  # noqa: SLF001
    return str(values[0].value)
