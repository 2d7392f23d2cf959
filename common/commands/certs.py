"""``dimee certs``: a site's own certificate authority, for TLS, sealing and revocation."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from common.cli.output import print_json, print_table
from common.errors import ConfigError
from common.types import Tier

if TYPE_CHECKING:
    from common.certificates.authority import Authority, Issued

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Certificates of a site's nodes.")
Folder = Annotated[Path, typer.Option("--dir", help="The authority's folder; keep it off the nodes.")]
Node = Annotated[str, typer.Argument(help="The node id.")]
Days = Annotated[int, typer.Option(help="How long it is valid.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
_HERE = Path("certs")
_NODE_DAYS = 30
_ROLES = ("device", "edge", "cloud", "broker", "application", "operator", "home-assistant", "bridge")


@app.callback()
def certs() -> None:
    """Issue, renew and revoke the certificates of a site's nodes."""


@app.command()
def init(
    site: Annotated[str, typer.Option(help="Stands in the authority's name.")] = "home", folder: Folder = _HERE
) -> None:
    """Make the authority: its key, its certificate, and an empty revocation list. Example: dimee certs init."""
    from common.certificates.authority import CRL_FILE, Authority  # noqa: PLC0415 - cryptography is an extra

    made = Authority.create(folder, site)
    typer.echo(f"{folder}: authority until {made.certificate.not_valid_after_utc:%Y-%m-%d}; keep ca.key off the nodes")
    typer.echo(f"brokers read {folder / CRL_FILE} and {folder / 'ca.pem'}; next: dimee certs issue")


@app.command()
def issue(
    node: Node,
    *,
    role: Annotated[str, typer.Option(help=f"One of {', '.join(_ROLES)}.")] = "device",
    host: Annotated[list[str] | None, typer.Option(help="Name or address of a broker; may be repeated.")] = None,
    days: Days = _NODE_DAYS,
    folder: Folder = _HERE,
) -> None:
    """Make a node's key and certificate. Example: dimee certs issue mosquitto --role broker --host broker.local."""
    from common.certificates.names import Role  # noqa: PLC0415

    if role not in _ROLES:
        raise ConfigError(f"--role {role!r} is none of {', '.join(_ROLES)}")
    _tell(_authority(folder).issue(node, Role(role), hosts=host or (), days=days), days)


@app.command()
def renew(node: Node, *, days: Days = _NODE_DAYS, folder: Folder = _HERE) -> None:
    """Make a node's next key and certificate. Example: dimee certs renew pi-1."""
    _tell(_authority(folder).renew(node, days=days), days)


@app.command()
def seal(
    tier: Annotated[Tier, typer.Argument(help="edge or cloud; all its workers share the key.")],
    *,
    days: Days = _NODE_DAYS,
    folder: Folder = _HERE,
) -> None:
    """Make a tier's next key for sealed payloads. Example: dimee certs seal edge."""
    if tier is Tier.DEVICE:
        raise ConfigError("devices have no sealing key of their own; name edge or cloud")
    _tell(_authority(folder).rotate_seal(tier, days=days), days)


@app.command()
def signer(folder: Folder = _HERE) -> None:
    """Make the key pair that bundles are signed with. Example: dimee certs signer."""
    from common.certificates.releases import make_release_key  # noqa: PLC0415

    private, public = make_release_key(folder)
    typer.echo(f"{private} signs releases (dimee model sign); {public} goes to every node as model.trusted_key_file")


@app.command()
def vault(out: Annotated[Path, typer.Argument(help="The file to write; it must not exist.")]) -> None:
    """Make a key that encrypts an outbox or the log's texts. Example: dimee certs vault /etc/dimee/log.key."""
    from common.certificates.at_rest import make_key  # noqa: PLC0415

    make_key(out)
    typer.echo(f"{out}: name it as outbox.key_file or log.key_file; without it what it sealed is lost")


@app.command()
def revoke(node: Node, *, folder: Folder = _HERE) -> None:
    """Revoke all certificates of a node. Example: dimee certs revoke pi-1."""
    revoked = _authority(folder).revoke(node)
    typer.echo(f"{node}: {len(revoked)} revoked; copy {folder / 'crl.pem'} to the brokers and restart them")


@app.command()
def show(*, folder: Folder = _HERE, as_json: AsJson = False) -> None:
    """List every certificate with its state. Example: dimee certs show --json."""
    issued = _authority(folder).issued()
    if as_json:
        print_json({"folder": str(folder), "certificates": issued})
        return
    print_table(
        "certificates", ("node", "role", "state", "expires", "hosts", "serial"), [_row(each) for each in issued]
    )


@app.command()
def acl(*, site: Annotated[str, typer.Option(help="As in mqtt.site.")] = "home", folder: Folder = _HERE) -> None:
    """Print Mosquitto's access list for the nodes that have certificates. Example: dimee certs acl > acl."""
    from common.certificates.access import access_list  # noqa: PLC0415

    nodes = [(each.name, each.role) for each in _authority(folder).issued() if each.state == "valid"]
    typer.echo(access_list(site, nodes), nl=False)


def _authority(folder: Path) -> "Authority":
    from common.certificates.authority import Authority  # noqa: PLC0415

    return Authority(folder)


def _tell(folder: Path, days: int) -> None:
    typer.echo(f"{folder}: key and certificate for {days} days; copy the folder to the node, and nothing else")


def _row(issued: "Issued") -> tuple[str, ...]:
    expires = f"{issued.expires:%Y-%m-%d %H:%M}"
    return issued.name, issued.role, issued.state, expires, " ".join(issued.hosts), issued.serial[:12]
