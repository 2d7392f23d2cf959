"""``dimee service``: this machine's tier as a systemd service."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from common.cli.output import print_json
from common.commands.config import tier_of
from common.commands.provision import replace_file
from common.commands.service_unit import unit_name, write_unit
from common.config.header import SETTINGS
from common.config.load import load
from common.config.settings import AnySettings, DeviceSettings, EdgeSettings
from common.errors import ConfigError, DimeeError
from common.store.engine import sqlite_file
from common.types import Tier

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Run this machine's tier as a system service.")
_SYSTEM_FOLDER = Path("/etc/systemd/system")
_RUNNING_SYSTEMD = Path("/run/systemd/system")


@app.callback()
def service() -> None:
    """Run this machine's tier as a system service."""


@app.command()
def install(
    *,
    config: Annotated[Path, typer.Option(help="The settings to run with.")],
    tier: Annotated[Tier | None, typer.Option(help="Whose settings, where the file does not tell.")] = None,
    unit_folder: Annotated[Path, typer.Option(help="Where systemd looks for units.")] = _SYSTEM_FOLDER,
    start: Annotated[bool, typer.Option(help="Enable and start it.")] = True,
    force: Annotated[bool, typer.Option("--force", help="Replace a unit that was changed by hand.")] = False,
    show: Annotated[bool, typer.Option("--print", help="Print the unit and change nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Install, enable and start the service. Example: sudo dimee service install --config /etc/dimee/edge.toml.

    The service gets a user of its own; passwords and keys stay readable by root alone. Keep the log in
    /var/lib/dimee-TIER, which the service owns.
    """
    tier = tier_of(config, tier)
    settings = load(SETTINGS[tier], config, {})
    _check_state(settings, tier, config)
    unit = write_unit(tier, _program(), config.absolute(), _private_files(settings, config))
    path = unit_folder / f"{unit_name(tier)}.service"
    if show:
        return typer.echo(unit, nl=False)
    if path.exists() and path.read_text(encoding="utf-8") != unit and not force:
        raise ConfigError(f"{path} exists and differs; see 'dimee service install --print', or replace it with --force")
    replace_file(path, unit)
    is_started = start and unit_folder == _SYSTEM_FOLDER and _start(unit_name(tier))
    if as_json:
        return print_json({"unit": str(path), "started": is_started})
    typer.echo(f"wrote {path}", err=True)
    if not is_started:
        typer.echo(f"  systemctl daemon-reload && systemctl enable --now {unit_name(tier)}", err=True)
    return typer.echo(f"  journalctl --unit {unit_name(tier)} --follow", err=True)


def _program() -> list[str]:
    beside = Path(sys.executable).with_name("dimee")
    return [str(beside)] if beside.exists() else [sys.executable, "-m", "common.cli"]


def _private_files(settings: AnySettings, source: Path) -> dict[str, Path]:
    """Give the files of the connection, by setting."""
    found = {}
    for section in ("mqtt", "channel"):
        values = getattr(settings, section)
        for key in values.__struct_fields__:
            value = getattr(values, key)
            if key.endswith("_file") and value is not None:
                path = Path(value).expanduser()
                if not path.is_absolute():
                    raise ConfigError(f"{source}: {section}.{key}: a service needs an absolute path, not {value!r}")
                found[f"{section}.{key}"] = path
    return found


def _check_state(settings: AnySettings, tier: Tier, source: Path) -> None:
    """Refuse files where the service has no rights; a relative path lies in its own folder."""
    folder = Path("/var/lib") / unit_name(tier)
    for key, file in _state(settings).items():
        if file is not None and Path(file).is_absolute() and not Path(file).is_relative_to(folder):
            raise ConfigError(f"{source}: {key} is {file}, and the service may write in {folder} only; keep it there")


def _state(settings: AnySettings) -> dict[str, str | Path | None]:
    """Give what the service itself writes, or reads as a folder, by setting."""
    found: dict[str, str | Path | None] = {
        "model.release_file": settings.model.release_file,
        "channel.tier_key_folder": settings.channel.tier_key_folder,
    }
    if isinstance(settings, EdgeSettings) and settings.log.is_recorder:
        found["log.url"] = sqlite_file(settings.log.url)
    if isinstance(settings, DeviceSettings):
        found["outbox.path"] = settings.outbox.path
    return found


def _start(name: str) -> bool:
    """Let systemd take the unit in; False where no systemd runs."""
    systemctl = shutil.which("systemctl")
    if systemctl is None or not _RUNNING_SYSTEMD.is_dir():
        return False
    for arguments in (["daemon-reload"], ["enable", "--now", name]):
        done = subprocess.run([systemctl, *arguments], capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode != 0:
            raise DimeeError(f"systemctl {' '.join(arguments)}: {done.stderr.strip()}")
    return True
