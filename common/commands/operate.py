"""``dimee model operate``: the policy and thresholds of a running site, without a restart."""

from typing import Annotated

import typer

from common.cli.output import print_json
from common.commands.site import AsJson, ConfigFile, ForTier, open_site
from common.engine.choice import DEFAULT, routing_table
from common.errors import ConfigError
from common.model.bundle import SHIPPED, open_bundle
from common.routing.operating_point import OperatingPoint, policy_of


def operate(
    policy: Annotated[str, typer.Argument(help="A policy of the bundle; 'own' gives every node its own back.")],
    *,
    bundle: Annotated[str, typer.Option(help="The bundle that the site runs.")] = SHIPPED,
    threshold: Annotated[
        list[str] | None, typer.Option(help="LAYER=VALUE in the policy's unit; may be repeated.")
    ] = None,
    config: ConfigFile = None,
    tier: ForTier = None,
    as_json: AsJson = False,
) -> None:
    """Change a running site's policy. Example: dimee model operate patience --config edge.toml.

    Nodes of another revision refuse it; nodes that start later take it up.
    """
    point = None if policy == "own" else _point(bundle, policy, threshold or [])
    with open_site(config, tier) as site:
        site.operate(point)
    if as_json:
        return print_json(point)
    return typer.echo("every node follows its own settings again" if point is None else told(point))


def told(point: OperatingPoint) -> str:
    """Say what was published."""
    chosen = point.thresholds or {}
    thresholds = ", ".join(f"{value:g} after layer {layer}" for layer, value in chosen.items()) or "its own thresholds"
    return f"nodes of revision {point.revision} run {point.policy}, {thresholds}"


def _point(location: str, policy: str, thresholds: list[str]) -> OperatingPoint:
    opened = open_bundle(location)
    table = routing_table(opened)
    point = OperatingPoint(
        revision=opened.revision,
        policy=table.default if policy == DEFAULT else policy,
        thresholds=dict(map(_threshold, thresholds)) or None,
    )
    policy_of(point, table, opened.revision, tuple(exit_.layer for exit_ in opened.manifest.exits))
    return point


def _threshold(written: str) -> tuple[int, float]:
    layer, _, value = written.partition("=")
    try:
        return int(layer), float(value)
    except ValueError as exc:
        raise ConfigError(f"--threshold {written!r} is no LAYER=VALUE; write e.g. 2=0.9") from exc
