"""``dimee doctor``: what is wrong with this node and its surroundings, and what to do about it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from common.cli.output import print_json, printable
from common.commands.broker_checks import check_broker
from common.commands.config import tier_of
from common.commands.finding import Finding, ok
from common.commands.machine_checks import (
    check_bundle,
    check_channel,
    check_clock,
    check_core,
    check_database,
    check_disk,
    check_outbox,
    check_packages,
    check_providers,
    check_python,
)
from common.config.header import SETTINGS
from common.config.load import load
from common.config.settings import AnySettings
from common.types import Tier
from common.wire.topics import Topics, checked

_COLOURS = {"ok": typer.colors.GREEN, "warning": typer.colors.YELLOW, "failed": typer.colors.RED, "skipped": None}


def doctor(
    *,
    config: Annotated[Path | None, typer.Option(help="TOML file; DIMEE_SECTION__KEY overrides it.")] = None,
    tier: Annotated[Tier | None, typer.Option(help="Whose settings, where the file does not tell.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Check this node and explain each problem in a line. Example: dimee doctor --config device.toml.

    Exit status 1 when something needs doing. It may be run beside the node: it has a client id of its own.
    """
    tier = tier_of(config, tier)
    settings = load(SETTINGS[tier], config)
    findings = []
    for finding in examine(settings, tier, config):
        findings.append(finding)
        if not as_json:
            _print(finding)
    if as_json:
        print_json(findings)
    if any(finding.state == "failed" for finding in findings):
        raise typer.Exit(1)


def examine(settings: AnySettings, tier: Tier, source: Path | None = None) -> Iterator[Finding]:
    """Run all checks in order, as they are asked for."""
    checked("node.id", settings.node.id)
    Topics(settings.mqtt.site)
    yield ok("settings", f"{source or 'environment'}: {tier} {settings.node.id!r} of site {settings.mqtt.site!r}")
    yield check_python()
    yield check_packages(settings)
    yield check_providers(settings)
    found, bundle = check_bundle(settings.model.bundle)
    yield found
    yield check_clock()
    yield check_disk(settings)
    yield from check_channel(settings, tier)
    yield from check_core(settings)
    yield from check_outbox(settings)
    yield from check_database(settings)
    yield from check_broker(settings, tier, None if bundle is None else bundle.manifest)


def _print(finding: Finding) -> None:
    state = typer.style(finding.state.ljust(7), fg=_COLOURS[finding.state])
    remedy = f" -> {finding.remedy}" if finding.remedy else ""
    typer.echo(f"{state}  {finding.check.ljust(20)}  {printable(finding.detail + remedy)}")
