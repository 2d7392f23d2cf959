"""Everything switched on: certificates, access list, sealed channel, trusted cores, a signed bundle, signed outcomes.

The stranger may read and write everything, as whoever owns the broker can.
"""

import shutil
from pathlib import Path
from typing import Any

from common.certificates import files, releases
from common.certificates.access import access_list
from common.certificates.authority import CRL_FILE, Authority
from common.certificates.names import Role
from common.types import Tier

STRANGER = "stranger"


class Protection:
    """A site's authority and what each node needs of it."""

    def __init__(self, folder: Path, site: str, bundle: str, roles: dict[str, Role]) -> None:
        self._folder = folder
        self._roles = roles | {"watch": Role.APPLICATION, "app": Role.APPLICATION, STRANGER: Role.APPLICATION}
        self._authority = Authority.create(folder / "certs", site)
        self._authority.issue("mosquitto", Role.BROKER, hosts=["127.0.0.1"])
        for name, role in self._roles.items():
            self._authority.issue(name, role)
        for tier in (Tier.EDGE, Tier.CLOUD):
            self._authority.rotate_seal(tier)
        acl = folder / "acl"
        acl.touch(mode=0o600)
        acl.write_text(f"{access_list(site, self._roles.items())}\nuser {STRANGER}\ntopic readwrite #\n")
        self.bundle = str(shutil.copytree(bundle, folder / "signed"))
        _, self._public = releases.make_release_key(folder)
        releases.sign(Path(self.bundle), "chaos", 1, files.read_signing_key(folder / "release.key"))

    def broker_lines(self) -> list[str]:
        """Give what Mosquitto asks its clients for."""
        own = self._authority.folder / "nodes" / "mosquitto"
        return [
            *("allow_anonymous false", "require_certificate true", "use_identity_as_username true"),
            *("use_username_as_clientid true", "tls_version tlsv1.2", f"acl_file {self._folder / 'acl'}"),
            *(f"cafile {own}/ca.pem", f"certfile {own}/certificate.pem", f"keyfile {own}/key.pem"),
            f"crlfile {self._authority.folder / CRL_FILE}",
        ]

    def tls(self, name: str) -> dict[str, Any]:
        """Give the TLS settings of a node or an application."""
        own = self._authority.folder / "nodes" / name
        return {
            "tls_ca_file": f"{own}/ca.pem",
            "tls_certificate_file": f"{own}/certificate.pem",
            "tls_key_file": f"{own}/key.pem",
        }

    def environment(self, name: str) -> dict[str, str]:
        """Give a node's settings."""
        settings = {f"DIMEE_MQTT__{key.upper()}": path for key, path in self.tls(name).items()} | {
            "DIMEE_CHANNEL__NAME": "sealed",
            "DIMEE_MODEL__BUNDLE": self.bundle,
            "DIMEE_MODEL__TRUSTED_KEY_FILE": str(self._public),
            "DIMEE_MODEL__RELEASE_FILE": str(self._folder / f"{name}.release"),
        }
        if self._roles[name] is Role.DEVICE:
            return settings | {
                "DIMEE_CHANNEL__HAS_PLAIN_INPUTS": "true",  # the application speaks MQTT
                "DIMEE_DEVICE__NEEDS_SIGNATURES": "true",
            }
        tiers = self._authority.folder / "tiers"
        return settings | {
            "DIMEE_CHANNEL__TIER_KEY_FOLDER": str(tiers / self._roles[name]),
            "DIMEE_CHANNEL__HAS_CORE": "true",
        }
