"""``dimee init``: a machine's settings, asked for on a terminal or given by flags."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from common.cli.output import print_json
from common.commands.provision import (
    Chosen,
    Enrolment,
    enrolment,
    machine_name,
    make_folder,
    parse_assignments,
    unique_id,
    write_config,
    write_password,
)
from common.config.settings import Mqtt
from common.errors import ConfigError
from common.types import Tier

_DEFAULTS = Mqtt()
_STATE_FOLDER = Path("/var/lib/dimee-edge")  # which systemd gives to the service of settings under /etc


def init(  # noqa: PLR0913 - typer's options
    tier: Annotated[Tier, typer.Argument(help="What runs on this machine.")],
    *,
    node: Annotated[str | None, typer.Option("--id", help="Unique name of the node; made up when not given.")] = None,
    host: Annotated[str | None, typer.Option(help="Host of the MQTT broker.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port of the MQTT broker.")] = None,
    site: Annotated[str | None, typer.Option(help="Name of the site, a level of every topic.")] = None,
    username: Annotated[str | None, typer.Option(help="MQTT user.")] = None,
    password_file: Annotated[Path | None, typer.Option(help="File that holds the MQTT password.")] = None,
    password_stdin: Annotated[bool, typer.Option("--password-stdin", help="Read the password from stdin.")] = False,
    bundle: Annotated[str | None, typer.Option(help="A bundle's directory; the shipped one by default.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="edge: folder of the log; the service's own for settings in /etc.")
    ] = None,
    embedded_broker: Annotated[bool, typer.Option("--embedded-broker", help="edge: bring a broker along.")] = False,
    source: Annotated[
        str | None,
        typer.Option("--from", help="device: print the line that enrols a board; an edge's settings or HOST[:PORT]."),
    ] = None,
    assignments: Annotated[list[str] | None, typer.Option("--set", help="Any setting: SECTION.KEY=VALUE.")] = None,
    out: Annotated[Path | None, typer.Option(help="The file to write; TIER.toml by default.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing, take the defaults.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Write the settings of this machine. Example: dimee init device --host mini.local --site home.

    What the flags leave open is asked for on a terminal. On the edge, 'dimee init device --from edge.toml' prints the
    one line to paste on a board.
    """
    _check_flags(tier, has_edge_flags=data is not None or embedded_broker, has_source=source is not None)
    if source is not None:
        return _print_enrolment(enrolment(source, site=site, node=node), as_json=as_json)
    path = (out or Path(f"{tier}.toml")).expanduser().absolute()
    if path.exists() and not force:
        raise ConfigError(f"{path} exists; name another file with --out, or replace it with --force")
    given = {
        "node.id": node,
        "mqtt.host": host,
        "mqtt.port": port,
        "mqtt.site": site,
        "mqtt.username": username,
        "mqtt.password_file": None if password_file is None else str(password_file.expanduser().absolute()),
        "model.bundle": _absolute(bundle),
    }
    chosen = {name: value for name, value in given.items() if value is not None} | parse_assignments(assignments or [])
    may_ask = not yes and not password_stdin and sys.stdin.isatty()
    if may_ask:
        _ask(tier, chosen)
    chosen.setdefault("node.id", unique_id(tier, machine_name()))
    if tier is Tier.EDGE:
        _lay_out_edge(chosen, _log_folder(data, path), brings_broker=embedded_broker)
    password = _password(chosen, may_ask=may_ask, from_stdin=password_stdin)
    password_path = path.parent / "mqtt-password"
    if password is not None:
        chosen["mqtt.password_file"] = str(password_path)
    write_config(tier, chosen, path)
    if data is not None:
        make_folder(data.expanduser().absolute())
    if password is not None:
        write_password(password, password_path)
    return _tell(tier, str(chosen["node.id"]), path, as_json=as_json)


def _check_flags(tier: Tier, *, has_edge_flags: bool, has_source: bool) -> None:
    if has_edge_flags and tier is not Tier.EDGE:
        raise ConfigError(f"--data and --embedded-broker are for an edge, not for a {tier}")
    if has_source and tier is not Tier.DEVICE:
        raise ConfigError(f"--from enrols a device; for {tier}, give --host and the rest by flags")


def _ask(tier: Tier, chosen: Chosen) -> None:
    questions: tuple[tuple[str, str, Any], ...] = (
        ("node.id", "Name of this node", unique_id(tier, machine_name())),
        ("mqtt.host", "Host of the MQTT broker", _DEFAULTS.host),
        ("mqtt.port", "Port", _DEFAULTS.port),
        ("mqtt.site", "Site", _DEFAULTS.site),
        ("mqtt.username", "MQTT user (empty for none)", ""),
    )
    for name, question, default in questions:
        if name not in chosen:
            answer = typer.prompt(question, default=default, err=True)
            if answer != "":
                chosen[name] = answer


def _password(chosen: Chosen, *, may_ask: bool, from_stdin: bool) -> str | None:
    """Get the password where a user is set and no file names it."""
    if "mqtt.username" not in chosen:
        if from_stdin:
            raise ConfigError("--password-stdin: a password needs its user; give --username")
        return None
    if "mqtt.password_file" in chosen:
        return None
    if from_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    if may_ask:
        return str(typer.prompt("Password", hide_input=True, err=True))
    return None


def _log_folder(data: Path | None, path: Path) -> Path:
    if data is not None:
        return data.expanduser().absolute()
    return _STATE_FOLDER if path.is_relative_to("/etc") else path.parent


def _lay_out_edge(chosen: Chosen, folder: Path, *, brings_broker: bool) -> None:
    chosen.setdefault("log.url", f"sqlite:///{folder / 'dimee-log.sqlite'}")
    if brings_broker:
        chosen["broker.is_enabled"] = True
        if "mqtt.port" in chosen:
            chosen["broker.port"] = chosen["mqtt.port"]


def _absolute(bundle: str | None) -> str | None:
    """Let a service find a bundle from any working directory."""
    if bundle is None or not Path(bundle).expanduser().is_dir():
        return bundle
    return str(Path(bundle).expanduser().absolute())


def _print_enrolment(found: Enrolment, *, as_json: bool) -> None:
    if as_json:
        return print_json(found._asdict())
    typer.echo(found.command)
    for file in found.files:
        typer.echo(f"copy {file} to the board and add: --set mqtt.tls_ca_file=ITS_PATH_THERE", err=True)
    return None


def _tell(tier: Tier, node: str, path: Path, *, as_json: bool) -> None:
    if as_json:
        return print_json({"tier": tier, "node": node, "file": str(path)})
    typer.echo(f"wrote {path} for {tier} {node!r}; next:", err=True)
    typer.echo(f"  dimee doctor --config {path}\n  dimee {tier} run --config {path}", err=True)
    return None
