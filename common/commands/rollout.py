"""``dimee model publish``, ``rollback`` and ``releases``: what the site's nodes run, through the broker."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from common.cli.output import print_json, print_table
from common.commands.config import tier_of
from common.config.header import SETTINGS
from common.config.load import load
from common.errors import ConfigError, TransportError, WireError
from common.model.bundle import Bundle, open_bundle
from common.model.rollout import Release, Rollout, decode_rollout, describe, is_chosen, read_chunk
from common.transport.probe import Probe
from common.types import NodeStatus, Tier
from common.wire.documents import decode_status, encode_document
from common.wire.topics import Topics

_QUIET_S = 0.5  # retained messages come at once
_CHUNK_BYTES = 256 * 1024
_PACKET_OVERHEAD_BYTES = 512  # topic and properties
_ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="Settings of any node of the site; only [node] and [mqtt] count.")
]
_ForTier = Annotated[Tier | None, typer.Option("--tier", help="Whose settings, where the file does not tell.")]
_AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


class Stage(StrEnum):
    """How far a bundle goes."""

    CANARY = "canary"
    ALL = "all"


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """What the site is to run, and what each node says that it runs."""

    rollout: Rollout
    nodes: list[NodeStatus]


class Site:
    """A site as its broker knows it, while a connection is open."""

    def __init__(self, probe: Probe, topics: Topics) -> None:
        self._probe = probe
        self._topics = topics

    def standing(self) -> Standing:
        """Read the rollout and all statuses.

        Raises:
            ConfigError: They may not be read.
            WireError: The rollout is none.
        """
        rollout, nodes = Rollout(), []
        for topic in (self._topics.rollout, self._topics.status("+", "+")):
            if refusal := self._probe.subscribe(topic):
                raise ConfigError(f"{topic} may not be read: {refusal}; allow it in the broker's access control")
        while (delivery := self._probe.receive(_QUIET_S)) is not None:
            if delivery.topic == self._topics.rollout:
                rollout = decode_rollout(delivery.payload)
                continue
            with suppress(WireError):  # a status that was cleared, or is none of ours
                nodes.append(decode_status(delivery.payload))
        return Standing(rollout=rollout, nodes=sorted(nodes, key=lambda node: (node.tier, node.node)))

    @property
    def chunk_bytes(self) -> int:
        """How large a part of a file may be."""
        return min(_CHUNK_BYTES, self._probe.limits.max_packet_bytes - _PACKET_OVERHEAD_BYTES)

    def upload(self, bundle: Bundle, release: Release) -> None:
        """Leave a bundle's files at the broker, part by part."""
        for file, number in release.chunks():
            part = read_chunk(bundle.directory, release, file, number)
            self._put(self._topics.chunk(release.revision, file, number), part)

    def announce(self, rollout: Rollout, former: Rollout) -> None:
        """Say what is to run, and clear away what is named no more."""
        self._put(self._topics.rollout, encode_document(rollout))
        kept = {release.revision for release in rollout.releases}
        for release in former.releases:
            for file, number in release.chunks() if release.revision not in kept else ():
                self._put(self._topics.chunk(release.revision, file, number), b"")

    def _put(self, topic: str, payload: bytes) -> None:
        if refusal := self._probe.publish(topic, payload, is_retained=True):
            raise ConfigError(f"the broker refuses {topic}: {refusal}; a certificate of role 'operator' may write it")


def publish(
    bundle: Annotated[str, typer.Argument(help="A bundle's directory.")],
    *,
    stage: Annotated[Stage, typer.Option(help="canary: some devices try it; all: the site runs it.")] = Stage.CANARY,
    devices: Annotated[str, typer.Option(help="canary: share of the devices, e.g. 10%.")] = "10%",
    config: _ConfigFile = None,
    tier: _ForTier = None,
    as_json: _AsJson = False,
) -> None:
    """Give the site a bundle. Example: dimee model publish ./bundle --stage canary --devices 10% --config edge.toml.

    Every node with updates.folder fetches it from the broker; edge and cloud serve it beside the old one.
    """
    opened, share = open_bundle(bundle), _share(devices)
    with _site(config, tier) as site:
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


def rollback(*, config: _ConfigFile = None, tier: _ForTier = None, as_json: _AsJson = False) -> None:
    """Take a canary back, or else the last release. Example: dimee model rollback --config edge.toml."""
    with _site(config, tier) as site:
        former = site.standing().rollout
        rollout = taken_back(former)
        site.announce(rollout, former)
    if as_json:
        return print_json(rollout)
    typer.echo(f"the site runs {rollout.stable.revision if rollout.stable else 'the bundles of its settings'} again")
    return None


def releases(*, config: _ConfigFile = None, tier: _ForTier = None, as_json: _AsJson = False) -> None:
    """Show what is published, and what each node runs. Example: dimee model releases --config edge.toml."""
    with _site(config, tier) as site:
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


@contextmanager
def _site(config: Path | None, tier: Tier | None) -> Iterator[Site]:
    settings = load(SETTINGS[tier_of(config, tier)], config)
    try:
        with Probe(settings.mqtt, f"{settings.node.id}-operator") as probe:
            yield Site(probe, Topics(settings.mqtt.site))
    except WireError as exc:
        raise TransportError(f"the broker holds what is none of ours: {exc}") from exc


def _share(written: str) -> float:
    number, percent, rest = written.partition("%")
    try:
        share = float(number) / (100 if percent else 1)
    except ValueError:
        share = -1.0
    if rest or not 0 < share <= 1:
        raise ConfigError(f"--devices {written!r} is no share of the devices; write e.g. 10% or 0.1")
    return share
