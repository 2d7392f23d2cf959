"""A site with its own authority, and a broker that asks for its certificates."""

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from brokers import Embedded

pytest.importorskip("cryptography", reason="security needs cryptography: pip install 'dimee[security]'")

from common.certificates.access import access_list
from common.certificates.authority import CRL_FILE, Authority
from common.certificates.names import Role
from common.config.settings import Mqtt
from common.transport.mqtt import MqttTransport

NODES = {
    "edge-1": Role.EDGE,
    "cloud-1": Role.CLOUD,
    "pi-1": Role.DEVICE,
    "pi-2": Role.DEVICE,
    "app": Role.APPLICATION,
    "office": Role.OPERATOR,
    "house": Role.HOME_ASSISTANT,
    "bridge": Role.BRIDGE,
}
TLS_CONF = Path(__file__).parents[2] / "infra" / "mosquitto" / "tls.conf"
OVERSEER = "overseer"  # of these tests: sees and says everything


class Site:
    """An authority with its nodes' certificates, and a broker that demands them."""

    def __init__(self, authority: Authority, broker: Any) -> None:
        self.authority = authority
        self.broker = broker
        self.stack = ExitStack()

    def settings(self, node: str, **overrides: Any) -> Mqtt:
        """Give the settings with which a node connects."""
        folder = self.authority.folder / "nodes" / node
        files = {
            "tls_ca_file": str(folder / "ca.pem"),
            "tls_certificate_file": str(folder / "certificate.pem"),
            "tls_key_file": str(folder / "key.pem"),
        }
        return Mqtt(**{"host": "127.0.0.1", "port": self.broker.port, **files, **overrides})

    def transport(self, node: str, *, presence: Any = None, **overrides: Any) -> MqttTransport:
        """Make a transport for a node, not entered yet."""
        return MqttTransport(self.settings(node, **overrides), client_id=node, presence=presence)

    def connected(self, node: str, **overrides: Any) -> MqttTransport:
        """Connect a node until the test ends."""
        transport = self.stack.enter_context(self.transport(node, **overrides))
        assert transport.wait_connected(60.0)
        return transport


@pytest.fixture(scope="session")
def site_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an authority that has given certificates to ``NODES`` and to the broker."""
    authority = Authority.create(tmp_path_factory.mktemp("site") / "certs", "home")
    authority.issue("mosquitto", Role.BROKER, hosts=["127.0.0.1", "localhost"])
    for name, role in {**NODES, OVERSEER: Role.APPLICATION}.items():
        authority.issue(name, role)
    return authority.folder


@pytest.fixture
def authority(site_folder: Path, tmp_path: Path) -> Authority:
    """A copy of that authority, free to change."""
    return Authority(shutil.copytree(site_folder, tmp_path / "certs"))


@pytest.fixture
def site(authority: Authority, make_mosquitto: Callable[..., Any], tmp_path: Path) -> Iterator[Site]:
    """The authority with a Mosquitto as docs/SECURITY.md sets it up: certificates, revocation, access by name."""
    with make_mosquitto(*_listener(authority, _access(tmp_path))) as broker:
        yield from _open(authority, broker)


@pytest.fixture
def broker_folder(authority: Authority, tmp_path: Path) -> Path:
    """What an embedded broker needs of the authority, as fresh as the authority's own."""
    folder, own = tmp_path / "broker", authority.folder / "nodes" / "mosquitto"
    folder.mkdir()
    for path in (own / "ca.pem", own / "certificate.pem", own / "key.pem", authority.folder / CRL_FILE):
        (folder / path.name).symlink_to(path)
    (folder / "acl").symlink_to(_access(tmp_path))
    return folder


@pytest.fixture
def embedded_site(authority: Authority, broker_folder: Path) -> Iterator[Site]:
    """The same authority and access list at the embedded broker."""
    with Embedded(broker_folder) as broker:
        yield from _open(authority, broker)


@pytest.fixture(params=["embedded_site", "site"])
def any_site(request: pytest.FixtureRequest) -> Site:
    """Each broker in turn."""
    found: Site = request.getfixturevalue(request.param)
    return found


def _open(authority: Authority, broker: Any) -> Iterator[Site]:
    running = Site(authority, broker)
    with running.stack:
        yield running


def _access(folder: Path) -> Path:
    acl = folder / "acl"
    acl.touch(mode=0o600)
    acl.write_text(f"{access_list('home', NODES.items())}\nuser {OVERSEER}\ntopic readwrite #\ntopic read $SYS/#\n")
    return acl


def _listener(authority: Authority, acl: Path) -> list[str]:
    """The shipped configuration behind its listener's line, with this machine's paths."""
    own = authority.folder / "nodes" / "mosquitto"
    places = {name: own / name for name in ("ca.pem", "certificate.pem", "key.pem")}
    places |= {"crl.pem": authority.folder / CRL_FILE, "acl": acl}
    first, *lines = (line for line in TLS_CONF.read_text(encoding="utf-8").splitlines() if line and line[0] != "#")
    assert first == "listener 8883"
    return [re.sub(r"/mosquitto/certs/(\S+)", lambda found: str(places[found[1]]), line) for line in lines]
