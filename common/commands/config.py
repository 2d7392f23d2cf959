"""``dimee config``: the settings in force with their origin, and whether a file is right."""

import re
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from common.cli.output import print_json, print_table
from common.commands.provision import rewrite_config
from common.config.document import toml_value
from common.config.header import SETTINGS
from common.config.load import load, migrated, origins, read_file
from common.config.reference import describe
from common.config.settings import AnySettings
from common.errors import ConfigError
from common.types import Tier
from common.wire.topics import Topics, checked

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Show or check the settings in force.")
ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file; DIMEE_SECTION__KEY overrides it.")]
ForTier = Annotated[Tier | None, typer.Option("--tier", help="Whose settings, where the file does not tell.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
_SECRET_KEY = re.compile(r"(^|_)(password|secret|token|passphrase)$")
_MASK = "***"


class InForce(msgspec.Struct, frozen=True, kw_only=True):
    """A setting's value and where it comes from."""

    key: str
    value: Any
    origin: str  # default, file, or the environment variable
    remark: str


@app.callback()
def config() -> None:
    """Show or check the settings in force."""


@app.command()
def show(*, config: ConfigFile = None, tier: ForTier = None, as_json: AsJson = False) -> None:
    """Show every setting with its origin; secrets are masked. Example: dimee config show --config edge.toml."""
    tier = tier_of(config, tier)
    settings = load(SETTINGS[tier], config)
    rows = in_force(settings, origins(type(settings), config))
    if as_json:
        return print_json(rows)
    lines = ((row.key, "not set" if row.value is None else toml_value(row.value), row.origin) for row in rows)
    return print_table(f"settings of {tier} {settings.node.id!r}", ("setting", "value", "origin"), lines)


@app.command()
def check(*, config: ConfigFile = None, tier: ForTier = None, as_json: AsJson = False) -> None:
    """Check a file without starting anything. Example: dimee config check --config edge.toml."""
    tier = tier_of(config, tier)
    settings = load(SETTINGS[tier], config)
    checked("node.id", settings.node.id)
    Topics(settings.mqtt.site)
    chosen = sorted(key for key, origin in origins(type(settings), config).items() if origin != "default")
    if as_json:
        return print_json({"tier": tier, "node": settings.node.id, "set": chosen})
    return typer.echo(f"{config or 'environment'}: settings of {tier} {settings.node.id!r}, {len(chosen)} of them set")


@app.command()
def migrate(
    file: Annotated[Path, typer.Argument(help="The settings file; the one before is kept beside it.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Bring a file of an earlier release to this one's schema. Example: dimee config migrate edge.toml."""
    tier = read_file(file)[0].tier
    text, changes = migrated(file)
    backup = rewrite_config(tier, text, file) if changes else None
    if as_json:
        return print_json({"file": str(file), "backup": backup and str(backup), "changes": changes})
    for change in changes:
        typer.echo(f"{file}: {change}")
    return typer.echo(f"{file}: nothing to change" if backup is None else f"{file}: rewritten; before it {backup}")


def tier_of(path: Path | None, tier: Tier | None) -> Tier:
    """Tell whose settings a file holds.

    Raises:
        ConfigError: Neither the file nor ``--tier`` tells.
    """
    told = read_file(path)[0].tier if path is not None else None
    if tier is None and told is None:
        raise ConfigError(
            f"{path or 'no --config'}: does not say whose settings these are; add --tier, or tier = at its top"
        )
    return tier or told  # type: ignore[return-value]


def in_force(settings: AnySettings, origin: dict[str, str]) -> list[InForce]:
    """List every setting; what may be secret is masked."""
    rows = []
    for section in describe(type(settings)):
        values = getattr(settings, section.name)
        rows += [
            InForce(
                key=setting.name,
                value=_masked(setting.key, getattr(values, setting.key)),
                origin=origin[setting.name],
                remark=setting.remark,
            )
            for setting in section.settings
        ]
    return rows


def _masked(key: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if _SECRET_KEY.search(key):
        return _MASK
    without = re.sub(r"(://[^/@]*?:)[^/]*@", rf"\1{_MASK}@", value)  # user:password@host
    return re.sub(r"((?:password|sslpassword)=)[^&]*", rf"\1{_MASK}", without)
