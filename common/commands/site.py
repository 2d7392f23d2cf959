"""A site as its broker knows it: what an operator's commands read and write there."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from common.commands.config import tier_of
from common.config.header import SETTINGS
from common.config.load import load
from common.errors import ConfigError, TransportError, WireError
from common.model.bundle import Bundle
from common.model.rollout import Release, Rollout, decode_rollout, read_chunk
from common.routing.operating_point import OperatingPoint, encode_point
from common.transport.probe import Probe
from common.types import NodeStatus, Tier
from common.wire.documents import decode_status, encode_document
from common.wire.topics import Topics

_QUIET_S = 0.5  # retained messages come at once
_CHUNK_BYTES = 64 * 1024  # on a slow link a part must not keep a ping waiting for long
_PACKET_OVERHEAD_BYTES = 512  # topic and properties
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="Settings of any node of the site; only [node] and [mqtt] count.")
]
ForTier = Annotated[Tier | None, typer.Option("--tier", help="Whose settings, where the file does not tell.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


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

    def operate(self, point: OperatingPoint | None) -> None:
        """Put an operating point into effect on every node; None gives each its own policy back."""
        self._put(self._topics.operating_point, b"" if point is None else encode_point(point))

    def _put(self, topic: str, payload: bytes) -> None:
        if refusal := self._probe.publish(topic, payload, is_retained=True):
            raise ConfigError(f"the broker refuses {topic}: {refusal}; a certificate of role 'operator' may write it")


@contextmanager
def open_site(config: Path | None, tier: Tier | None) -> Iterator[Site]:
    """Connect by the settings of any node of a site.

    Raises:
        ConfigError: The settings are wrong, or the broker refuses them.
        TransportError: It does not answer, or holds what is none of ours.
    """
    settings = load(SETTINGS[tier_of(config, tier)], config)
    try:
        with Probe(settings.mqtt, f"{settings.node.id}-operator") as probe:
            yield Site(probe, Topics(settings.mqtt.site))
    except WireError as exc:
        raise TransportError(f"the broker holds what is none of ours: {exc}") from exc
