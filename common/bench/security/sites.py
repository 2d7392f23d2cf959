"""Two whole sites beside each other on Mosquitto, one plain and one with everything switched on."""

import getpass
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from common.bench.field import Entrant, Field, Ground, free_port
from common.bench.parts import Drive, Ready
from common.bench.processes import Process
from common.certificates import files, releases
from common.certificates.access import access_list
from common.certificates.authority import Authority
from common.certificates.names import Role
from common.commands.fleet import Broker, Fleet, running
from common.config.settings import Mqtt
from common.errors import ConfigError, TransportError
from common.model.bundle import open_bundle
from common.types import Tier

SITE = "home"
DEVICE, EDGE, CLOUD, WATCH = "pi-1", "edge-1", "cloud-1", "watch-1"
NODES = {EDGE: Role.EDGE, CLOUD: Role.CLOUD, DEVICE: Role.DEVICE, "pi-2": Role.DEVICE, WATCH: Role.APPLICATION}
_TIERS = {EDGE: Tier.EDGE, CLOUD: Tier.CLOUD}
_START_LIMIT_S = 30.0
_CLOSED_LOOP = {"DIMEE_DEVICE__BUDGET_MS": "20000", "DIMEE_DEVICE__RETRY_MS": "5000"}  # load must not look like loss


@dataclass(frozen=True, slots=True, kw_only=True)
class Protection:
    """How a site is protected."""

    name: str
    broker_lines: tuple[str, ...]
    environment: Callable[[str], Mapping[str, str]]  # of a node
    watch: Callable[[int], Mqtt]  # how somebody connects who waits for the nodes


@dataclass(frozen=True, slots=True, kw_only=True)
class Premises:
    """A folder with an authority, all nodes' certificates, and a signed bundle."""

    folder: Path
    authority: Authority
    bundle: Path
    public_key: Path

    @classmethod
    def make(cls, folder: Path, bundle: str) -> "Premises":
        """Issue and sign everything that a protected site needs."""
        authority = Authority.create(folder / "certs", SITE)
        authority.issue("mosquitto", Role.BROKER, hosts=["127.0.0.1"])
        for name, role in NODES.items():
            authority.issue(name, role)
        for tier in (Tier.EDGE, Tier.CLOUD):
            authority.rotate_seal(tier)
        copied = shutil.copytree(open_bundle(bundle).directory, folder / "bundle")
        _, public = releases.make_release_key(folder)
        releases.sign(copied, "bench", 1, files.read_signing_key(folder / "release.key"))
        return cls(folder=folder, authority=authority, bundle=copied, public_key=public)


def plain() -> Protection:
    """Give a site without any protection."""
    return Protection(
        name="plain",
        broker_lines=("allow_anonymous true",),
        environment=lambda _: {},
        watch=lambda port: Mqtt(port=port, site=SITE),
    )


def protected(premises: Premises) -> Protection:
    """Give a site with certificates on both sides, access list, sealed channel and signed bundle."""
    authority, acl = premises.authority, premises.folder / "acl"
    own = authority.folder / "nodes" / "mosquitto"
    acl.touch(mode=0o600)
    acl.write_text(access_list(SITE, NODES.items()), encoding="utf-8")
    lines = (
        *("allow_anonymous false", "require_certificate true", "tls_version tlsv1.2"),
        *("use_identity_as_username true", "use_username_as_clientid true", f"acl_file {acl}"),
        *(f"cafile {own}/ca.pem", f"certfile {own}/certificate.pem", f"keyfile {own}/key.pem"),
        f"crlfile {authority.folder}/crl.pem",
    )

    def environment(node: str) -> dict[str, str]:
        tier = _TIERS.get(node)
        return {
            **{f"DIMEE_MQTT__{key.upper()}": path for key, path in _tls(authority, node).items()},
            "DIMEE_CHANNEL__NAME": "sealed",
            "DIMEE_MODEL__TRUSTED_KEY_FILE": str(premises.public_key),
            "DIMEE_MODEL__RELEASE_FILE": str(premises.folder / f"{node}-release.json"),
        } | ({"DIMEE_CHANNEL__TIER_KEY_FOLDER": f"{authority.folder}/tiers/{tier}"} if tier else {})

    return Protection(
        name="protected",
        broker_lines=lines,
        environment=environment,
        watch=lambda port: msgspec.structs.replace(Mqtt(port=port, site=SITE), **_tls(authority, WATCH)),
    )


@contextmanager
def open_sites(
    premises: Premises, protections: tuple[Protection, ...], policy: str, texts: tuple[str, ...]
) -> Iterator[Field]:
    """Start every site with a device that takes turns; all wait while one is asked."""
    with ExitStack() as stack:
        ground = Ground(bundle=str(premises.bundle), policy=policy, texts=texts)
        opened = Field(ground=ground, directory=premises.folder, stack=stack)
        for protection in protections:
            folder = Path(tempfile.mkdtemp(prefix=f"{protection.name}-", dir=premises.folder))
            opened.entrants[protection.name] = _open_site(folder, protection, ground, stack)
        yield opened


def _open_site(folder: Path, protection: Protection, ground: Ground, stack: ExitStack) -> Entrant:
    port = stack.enter_context(_mosquitto(folder, protection.broker_lines))
    broker = Broker(host="127.0.0.1", port=port)
    site = Fleet(directory=folder, broker=broker, site=SITE, bundle=ground.bundle, stack=stack)
    policy = {"DIMEE_ROUTING__POLICY": ground.policy}
    log = {"DIMEE_LOG__URL": f"sqlite:///{folder / 'log.sqlite'}"}
    site.start(Tier.EDGE, EDGE, {**protection.environment(EDGE), **policy, **log})
    site.start(Tier.CLOUD, CLOUD, {**protection.environment(CLOUD), **policy})
    site.wait_online(EDGE, CLOUD, settings=protection.watch(port), client_id=WATCH)
    device = {
        **broker.environment(SITE),
        **protection.environment(DEVICE),
        **policy,
        **_CLOSED_LOOP,
        "DIMEE_NODE__ID": DEVICE,
        "DIMEE_MODEL__BUNDLE": ground.bundle,
    }
    part = Drive(contestant="dimee", bundle=ground.bundle, policy=ground.policy, texts=ground.texts)
    driver = Process(part, folder, stack, environment=device)
    return Entrant(name=protection.name, drivers=[driver], ready=driver.hear(Ready))


@contextmanager
def _mosquitto(folder: Path, lines: tuple[str, ...]) -> Iterator[int]:
    """Run Mosquitto on a free port.

    Raises:
        ConfigError: It is not installed.
        TransportError: It does not listen.
    """
    program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        raise ConfigError("mosquitto is not installed; apt install mosquitto")
    port, config = free_port(), folder / "mosquitto.conf"
    own = ("set_tcp_nodelay true", f"user {getpass.getuser()}")
    config.write_text("\n".join([f"listener {port} 127.0.0.1", *lines, *own]), encoding="utf-8")
    with (
        (folder / "broker.log").open("wb") as log,
        running([program, "-c", str(config)], dict(os.environ), stdin=subprocess.DEVNULL, stdout=log, stderr=log),
    ):
        deadline = time.monotonic() + _START_LIMIT_S
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)  # nothing tells when a foreign process listens
        else:
            raise TransportError(f"mosquitto does not listen on port {port}; see {folder / 'broker.log'}")
        yield port


def _tls(authority: Authority, node: str) -> dict[str, str]:
    own = authority.folder / "nodes" / node
    return {
        "tls_ca_file": str(own / "ca.pem"),
        "tls_certificate_file": str(own / "certificate.pem"),
        "tls_key_file": str(own / "key.pem"),
    }
