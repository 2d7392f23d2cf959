"""The retained cap of the link reaches an adaptive device, and what makes no sense does not."""

from typing import Any

import pytest

from common.types import Tier
from tests.device.conftest import TOPICS


def form(agent: Any) -> tuple[str, int]:
    """Codec and width of the hidden states of one escalated text."""
    hop = agent.classify("a fine film").hops[1]
    return hop.codec, hop.received_width


def test_an_adaptive_device_sends_all_it_may_until_it_is_capped(site: Any) -> None:
    site.start_recorder()
    site.start_tier(Tier.EDGE)
    site.start_tier(Tier.CLOUD)
    agent = site.start_device(is_adaptive=True)
    width = site.bundle.manifest.hidden_size

    before = form(agent)
    site.transport("operator").publish(TOPICS.link, b'{"budget": "wide"}', is_retained=True)
    site.transport("operator-2").publish(TOPICS.link, b'{"budget": 4}', is_retained=True)
    site.wait_for(lambda: agent._link_cap == 4)

    assert before == ("int8", width)
    assert form(agent) == ("int8", width)  # the bundle has no thin link, so there is nothing to cap
    assert agent.counters["answered_final"] == 2


@pytest.mark.parametrize("payload", [b"", b'{"budget": 0}'])
def test_a_cap_is_lifted_by_nothing_and_by_zero(site: Any, payload: bytes) -> None:
    agent = site.start_device(is_adaptive=True)
    operator = site.transport("operator")

    operator.publish(TOPICS.link, b'{"budget": 4}', is_retained=True)
    site.wait_for(lambda: agent._link_cap == 4)
    operator.publish(TOPICS.link, payload, is_retained=True)

    site.wait_for(lambda: agent._link_cap == 0)
