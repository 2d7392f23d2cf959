"""What a node says of itself on its retained status topic, and saying it anew when it changes."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from common.errors import TransportError
from common.transport.contract import Presence, Transport
from common.types import NodeStatus, Tier
from common.wire.documents import encode_document
from common.wire.topics import Topics

_LOGGER = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Standing:
    """What changes about a node's model while it runs; one thread writes, any reads."""

    revision: str
    revisions: tuple[str, ...] = ()  # all that it serves, where they are several
    update: str = ""  # how an update stands, in words
    provider: str = ""  # onnxruntime's


def presence(
    tier: Tier,
    node: str,
    topics: Topics,
    standing: Standing,
    counters: Callable[[], dict[str, int]] = dict,
    *,
    tier_key: str = "",
) -> Presence:
    """Give the retained status of a node, and its last will."""

    def status(state: Literal["online", "stopped"]) -> bytes:
        said = NodeStatus(
            state=state,
            tier=tier,
            node=node,
            model_revision=standing.revision,
            counters=counters(),
            tier_key=tier_key,
            revisions=standing.revisions,
            update=standing.update[:200],
            provider=standing.provider,
        )
        return encode_document(said)

    gone = NodeStatus(state="offline", tier=tier, node=node, model_revision=standing.revision, tier_key=tier_key)
    return Presence(
        topic=topics.status(tier, node),
        online=lambda: status("online"),
        stopped=lambda: status("stopped"),
        gone=encode_document(gone),
    )


def announce(transport: Transport, presence: Presence) -> None:
    """Publish the status anew; a broker that is away gets it at the next connection."""
    if not transport.is_connected:
        return
    try:
        transport.publish(presence.topic, presence.online(), is_retained=True)
    except TransportError as exc:
        _LOGGER.debug("the status is not published: %s", exc)
