"""A device keeps more for itself while the tier it would ask has too much to do."""

from typing import Any

import pytest

from common.types import NodeStatus, Tier
from common.wire.documents import encode_document
from common.wire.topics import Topics

TOPICS = Topics("home")


def say(site: Any, node: str, *, is_saturated: bool, state: Any = "online") -> None:
    status = NodeStatus(state=state, tier=Tier.EDGE, node=node, counters={"inference_saturated": int(is_saturated)})
    transport = site.transport(f"{node}-{is_saturated}-{state}")
    transport.publish(TOPICS.status(Tier.EDGE, node), encode_document(status), is_retained=True)


@pytest.mark.parametrize(("is_saturated", "first"), [(True, Tier.DEVICE), (False, Tier.EDGE)])
def test_an_offload_starts_on_the_device_while_the_edge_is_saturated(
    site: Any,
    is_saturated: bool,
    first: Tier,
) -> None:
    site.start_recorder()
    site.start_tier(Tier.EDGE, thresholds={2: 0.0})
    say(site, "edge-1", is_saturated=is_saturated)
    agent = site.start_device(policy="edge-only")

    assert agent.classify("a fine film").hops[0].tier is first


def test_one_node_at_ease_or_none_known_is_enough_to_ask(site: Any) -> None:
    agent = site.start_device(budget_ms=100.0, drain_s=0.1)
    assert not agent.surroundings.is_saturated(Tier.EDGE)
    say(site, "edge-1", is_saturated=True)
    assert agent.surroundings.is_saturated(Tier.EDGE)
    say(site, "edge-2", is_saturated=False)
    assert not agent.surroundings.is_saturated(Tier.EDGE)
    say(site, "edge-2", is_saturated=False, state="offline")
    assert agent.surroundings.is_saturated(Tier.EDGE)
    site.transport("stranger").publish(TOPICS.status(Tier.EDGE, "x"), b"\xff nonsense")
