"""A site's certificate authority in a folder: issues short-lived node certificates and revokes them.

``ca.key`` stays where the authority is; a node gets its own folder under ``nodes`` and nothing else.
"""

import datetime as dt
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from common.certificates import files
from common.certificates.names import Role, checked_node, name_of, role_of, subject
from common.errors import ConfigError

CA_FILE = "ca.pem"
CA_KEY_FILE = "ca.key"
CRL_FILE = "crl.pem"
CERTIFICATE_FILE = "certificate.pem"
KEY_FILE = "key.pem"
CA_DAYS = 3650
NODE_DAYS = 30
_BACKDATED = dt.timedelta(minutes=5)  # a node's clock may be a little behind
_MAX_DAYS = 825


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """One certificate that the authority has given out."""

    name: str
    role: Role
    serial: str  # hexadecimal
    hosts: tuple[str, ...]
    starts: dt.datetime
    expires: dt.datetime
    state: Literal["valid", "expired", "revoked"]


class Authority:
    """An opened authority; every change is on disk when a method returns."""

    def __init__(self, folder: Path) -> None:
        """Open the authority in a folder.

        Raises:
            ConfigError: There is none.
        """
        if not (folder / CA_KEY_FILE).exists():
            raise ConfigError(f"{folder} holds no certificate authority; make one with 'dimee certs init'")
        self.folder = folder
        self._key = files.read_signing_key(folder / CA_KEY_FILE)
        (self.certificate,) = files.read_certificates(folder / CA_FILE)
        try:
            self._crl = x509.load_pem_x509_crl(files.read(folder / CRL_FILE))
        except ValueError as exc:
            raise ConfigError(f"{folder / CRL_FILE} holds no PEM revocation list") from exc

    @classmethod
    def create(cls, folder: Path, name: str) -> "Authority":
        """Make a new authority.

        Raises:
            ConfigError: The folder holds one already.
        """
        if (folder / CA_KEY_FILE).exists():
            raise ConfigError(f"{folder} holds an authority already; another one would make all its nodes strangers")
        key, now = Ed25519PrivateKey.generate(), _now()
        own = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"dimee {checked_node(name)}")])
        certificate = (
            _builder(own, own, now - _BACKDATED, now + dt.timedelta(days=CA_DAYS))
            .public_key(key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(is_authority=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, None)
        )
        files.write_public(folder / CA_FILE, files.certificate_pem(certificate))
        files.write_public(folder / CRL_FILE, _sign_crl(certificate, key, ()).public_bytes(Encoding.PEM))
        files.write_secret(folder / CA_KEY_FILE, files.private_pem(key))
        return cls(folder)

    def issue(self, name: str, role: Role, *, hosts: Sequence[str] = (), days: int = NODE_DAYS) -> Path:
        """Make a node's key and certificate and give its folder.

        Args:
            name: The node id.
            role: What it may do.
            hosts: Names and addresses under which others connect to it; a broker needs at least one.
            days: How long it is valid.

        Raises:
            ConfigError: The name is taken or cannot be one, or a broker has no host, or the days are out of range.
        """
        taken = self._current(checked_node(name), is_seal=role is Role.SEAL)
        if taken is not None:
            raise ConfigError(
                f"{name!r} has a certificate until {taken.expires:%Y-%m-%d}; 'dimee certs renew {name}' makes the next"
            )
        if role is Role.BROKER and not hosts:
            raise ConfigError(f"broker {name!r} needs the names or addresses that nodes connect to: --host")
        return self._make(name, role, hosts=hosts, days=days)

    def renew(self, name: str, *, days: int = NODE_DAYS) -> Path:
        """Make a node's next key and certificate, of the same role and hosts; the old one stays valid to its end.

        Raises:
            ConfigError: The node has no certificate, or it was revoked.
        """
        newest = self._newest(checked_node(name), is_seal=False)
        if newest is None:
            raise ConfigError(f"{name!r} never had a certificate here; use 'dimee certs issue'")
        if newest.state == "revoked":
            raise ConfigError(f"the certificate of {name!r} is revoked; 'dimee certs issue' lets it in again")
        return self._make(name, newest.role, hosts=newest.hosts, days=days)

    def rotate_seal(self, tier: str, *, days: int = NODE_DAYS) -> Path:
        """Make a tier's next sealing key, which all of its workers share, and give its folder."""
        return self._make(tier, Role.SEAL, hosts=(), days=days)

    def revoke(self, name: str) -> list[Issued]:
        """Revoke every certificate of a node that is still valid, and write the list that brokers read.

        Raises:
            ConfigError: There is none.
        """
        valid = [issued for issued in self.issued() if issued.name == name and issued.state == "valid"]
        if not valid:
            raise ConfigError(f"{name!r} has no valid certificate to revoke")
        serials = {revoked.serial_number for revoked in self._crl} | {int(issued.serial, 16) for issued in valid}
        self._crl = _sign_crl(self.certificate, self._key, sorted(serials))
        files.write_public(self.folder / CRL_FILE, self._crl.public_bytes(Encoding.PEM))
        return valid

    def issued(self) -> list[Issued]:
        """List all certificates ever given out, oldest first."""
        paths = (self.folder / "issued").glob("*.pem")
        found = [self._describe(files.read_certificates(path)[0]) for path in paths]
        return sorted(found, key=lambda issued: (issued.starts, issued.serial))

    def _make(self, name: str, role: Role, *, hosts: Sequence[str], days: int) -> Path:
        if not 1 <= days <= _MAX_DAYS:
            raise ConfigError(f"a certificate is valid for 1 to {_MAX_DAYS} days, not {days}")
        key: files.PrivateKey = X25519PrivateKey.generate() if role is Role.SEAL else Ed25519PrivateKey.generate()
        certificate = self._sign(name, role, key.public_key(), hosts=hosts, days=days)
        serial = f"{certificate.serial_number:x}"
        folder = self.folder / ("tiers" if role is Role.SEAL else "nodes") / name
        if role is Role.SEAL:
            _keep_previous(folder)
        files.write_public(self.folder / "issued" / f"{serial}.pem", files.certificate_pem(certificate))
        files.write_secret(folder / KEY_FILE, files.private_pem(key))
        files.write_public(folder / CERTIFICATE_FILE, files.certificate_pem(certificate))
        files.write_public(folder / CA_FILE, files.certificate_pem(self.certificate))
        return folder

    def _sign(
        self,
        name: str,
        role: Role,
        key: Ed25519PublicKey | X25519PublicKey,
        *,
        hosts: Sequence[str],
        days: int,
    ) -> x509.Certificate:
        now = _now()
        expires = min(now + dt.timedelta(days=days), self.certificate.not_valid_after_utc)
        usages = [ExtendedKeyUsageOID.SERVER_AUTH if role is Role.BROKER else ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = (
            _builder(subject(name, role), self.certificate.subject, now - _BACKDATED, expires)
            .public_key(key)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(is_agreement=role is Role.SEAL), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if role is not Role.SEAL:
            builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        if hosts:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False
            )
        return builder.sign(self._key, None)

    def _describe(self, certificate: x509.Certificate) -> Issued:
        is_revoked = self._crl.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None
        is_expired = certificate.not_valid_after_utc <= _now()
        return Issued(
            name=name_of(certificate),
            role=role_of(certificate),
            serial=f"{certificate.serial_number:x}",
            hosts=_hosts(certificate),
            starts=certificate.not_valid_before_utc,
            expires=certificate.not_valid_after_utc,
            state="revoked" if is_revoked else "expired" if is_expired else "valid",
        )

    def _newest(self, name: str, *, is_seal: bool) -> Issued | None:
        own = [issued for issued in self.issued() if issued.name == name and (issued.role is Role.SEAL) == is_seal]
        return own[-1] if own else None

    def _current(self, name: str, *, is_seal: bool) -> Issued | None:
        newest = self._newest(name, is_seal=is_seal)
        return newest if newest is not None and newest.state == "valid" else None


def _keep_previous(folder: Path) -> None:
    """Let workers still open what was sealed to the key in use until now."""
    for name in (KEY_FILE, CERTIFICATE_FILE):
        if (folder / name).exists():
            (folder / name).replace(folder / f"previous-{name}")


def _builder(
    subject_name: x509.Name, issuer: x509.Name, starts: dt.datetime, expires: dt.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject_name)
        .issuer_name(issuer)
        .serial_number(x509.random_serial_number())
        .not_valid_before(starts)
        .not_valid_after(expires)
    )


def _key_usage(*, is_authority: bool = False, is_agreement: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_authority and not is_agreement,
        key_agreement=is_agreement,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        encipher_only=False,
        decipher_only=False,
    )


def _sign_crl(
    authority: x509.Certificate, key: Ed25519PrivateKey, serials: Sequence[int]
) -> x509.CertificateRevocationList:
    """Sign a list that is valid as long as the authority: OpenSSL refuses everybody once a list has run out."""
    now = _now()
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.subject)
        .last_update(now - _BACKDATED)
        .next_update(authority.not_valid_after_utc)
    )
    for serial in serials:
        revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
        builder = builder.add_revoked_certificate(revoked)
    return builder.sign(key, None)


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return x509.DNSName(host)
    except ValueError as exc:
        raise ConfigError(f"--host {host!r} is neither an address nor a plain DNS name") from exc


def _hosts(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(str(name.value) for name in names)


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC).replace(microsecond=0)
