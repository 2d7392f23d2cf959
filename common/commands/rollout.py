"""``dimee model publish``, ``rollback`` and ``releases``: what the site's nodes run, through the broker."""

import time
from enum import StrEnum
from typing import Annotated

import msgspec
import typer

from common.cli.output import print_json, print_table
from common.commands.site import AsJson, ConfigFile, ForTier, open_site
from common.errors import ConfigError
from common.model.bundle import Bundle, open_bundle
from common.model.rollout import Release, Rollout, describe, is_chosen
from common.types import Tier


class Stage(StrEnum):
    """How far a bundle goes."""

    CANARY = "canary"
    ALL = "all"


def publish(
    bundle: Annotated[str, typer.Argument(help="A bundle's directory.")],
    *,
    stage: Annotated[Stage, typer.Option(help="canary: some devices try it; all: the site runs it.")] = Stage.CANARY,
    devices: Annotated[str, typer.Option(help="canary: share of the devices, e.g. 10%.")] = "10%",
    config: ConfigFile = None,
    tier: ForTier = None,
    as_json: AsJson = False,
) -> None:
    """Give the site a bundle. Example: dimee model publish ./bundle --stage canary --devices 10% --config edge.toml.

    Every node with updates.folder fetches it from the broker; edge and cloud serve it beside the old one.
    """
    opened, share = open_bundle(bundle), _share(devices)
    with open_site(config, tier) as site:
        former = site.standing()
        rollout, release = staged(former.rollout, opened, stage, share, chunk_bytes=site.chunk_bytes)
        site.upload(opened, release)
        site.announce(rollout, former.rollout)
    chosen = [one.node for one in former.nodes if one.tier is Tier.DEVICE and is_chosen(one.node, share)]
    if as_json:
        return print_json({"revision": release.revision, "stage": stage, "devices": chosen, "rollout": rollout})
    typer.echo(f"published {release.revision} ({release.num_bytes:,} bytes) for {stage}")
    if stage is Stage.CANARY:
        typer.echo(f"devices of this site that try it: {', '.join(chosen) or 'none; raise --devices'}")
    return None


def rollback(*, config: ConfigFile = None, tier: ForTier = None, as_json: AsJson = False) -> None:
    """Take a canary back, or else the last release. Example: dimee model rollback --config edge.toml."""
    with open_site(config, tier) as site:
        former = site.standing().rollout
        rollout = taken_back(former)
        site.announce(rollout, former)
    if as_json:
        return print_json(rollout)
    typer.echo(f"the site runs {rollout.stable.revision if rollout.stable else 'the bundles of its settings'} again")
    return None


def releases(*, config: ConfigFile = None, tier: ForTier = None, as_json: AsJson = False) -> None:
    """Show what is published, and what each node runs. Example: dimee model releases --config edge.toml."""
    with open_site(config, tier) as site:
        standing = site.standing()
    if as_json:
        return print_json(standing)
    rollout = standing.rollout
    named = (("stable", rollout.stable), (f"canary, {rollout.share:.0%}", rollout.candidate))
    stages = [*named, ("before", rollout.previous)]
    rows = [(stage, one.revision, one.name, f"{one.num_bytes:,}") for stage, one in stages if one]
    print_table("releases", ("stage", "revision", "name", "bytes"), rows)
    nodes = [(one.tier, one.node, one.state, ", ".join(one.served), one.update) for one in standing.nodes]
    return print_table("nodes", ("tier", "node", "state", "revisions", "update"), nodes)


def staged(former: Rollout, bundle: Bundle, stage: Stage, share: float, *, chunk_bytes: int) -> tuple[Rollout, Release]:
    """Give the rollout with a bundle brought to a stage, and how the bundle is published.

    Raises:
        ArtifactError: The bundle is not intact.
        ConfigError: It is what the site runs already.
    """
    sequence = max(former.sequence + 1, int(time.time()))
    release = describe(bundle, chunk_bytes=chunk_bytes, sequence=sequence)
    if former.stable is not None and former.stable.files == release.files:
        raise ConfigError(f"the site runs {release.revision} already; see 'dimee model releases'")
    if stage is Stage.CANARY:
        return msgspec.structs.replace(former, sequence=sequence, candidate=release, share=share), release
    return Rollout(sequence=sequence, stable=release, previous=former.stable), release


def taken_back(former: Rollout) -> Rollout:
    """Give the rollout without its canary; where there is none, with the release before.

    Raises:
        ConfigError: There is nothing to take back.
    """
    sequence = max(former.sequence + 1, int(time.time()))
    if former.candidate is not None:
        return msgspec.structs.replace(former, sequence=sequence, candidate=None, share=0.0)
    if former.stable is None:
        raise ConfigError("nothing is published, so there is nothing to take back")
    return Rollout(sequence=sequence, stable=former.previous)


def _share(written: str) -> float:
    number, percent, rest = written.partition("%")
    try:
        share = float(number) / (100 if percent else 1)
    except ValueError:
        share = -1.0
    if rest or not 0 < share <= 1:
        raise ConfigError(f"--devices {written!r} is no share of the devices; write e.g. 10% or 0.1")
    return share
