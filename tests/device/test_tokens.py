"""A device that offloads as tokens: the same answers for fewer bytes, honest under audit, degraded where refused."""

from typing import Any

import pytest

from common.engine.pipeline import Pipeline
from common.routing.policies import ConfidenceCascade
from common.types import Reason, Tier

TEXTS = ("a fine film with the warm music", "a dull plot and the cold end")


def offloading(site: Any, **limits: Any) -> Any:
    site.start_recorder()
    return site.start_device(policy="edge-only", offload="tokens", **limits)


def test_tokens_give_the_very_answers_that_the_embedding_gives(site: Any) -> None:
    site.start_tier(Tier.EDGE, thresholds={2: 0.0}, takes_tokens=True)
    agent = offloading(site)
    whole = Pipeline(site.bundle, ConfidenceCascade(thresholds={2: 0.0}), depth=2)

    for text in TEXTS:
        answer = agent.classify(text)
        (unsent,) = whole.advance([agent._model.entrance.enter(text).state])
        (hop,) = answer.hops

        assert (answer.confidence, answer.exit_layer) == (pytest.approx(unsent.confidence, abs=1e-7), 2)
        assert (hop.codec, hop.received_tokens, hop.received_width) == ("tokens", answer.tokens, 1)
        assert answer.payload_bytes == hop.received_bytes < 2 * answer.tokens + 150


def test_answers_to_tokens_hold_under_audit(site: Any) -> None:
    site.start_tier(Tier.EDGE, thresholds={2: 0.0}, takes_tokens=True)
    agent = offloading(site, audit_rate=1.0)
    audit = agent._settler._audit

    for text in TEXTS:
        agent.classify(text)

    site.wait_for(lambda: audit.counters["audited"] == len(TEXTS))
    assert audit.counters["audit_failed"] == 0


def test_a_tier_that_takes_no_tokens_says_so_and_the_device_answers(site: Any) -> None:
    worker = site.start_tier(Tier.EDGE, thresholds={2: 0.0})

    answer = offloading(site).classify(TEXTS[0])

    assert (answer.reason, answer.exit_tier) == (Reason.DEGRADED, Tier.DEVICE)
    assert "bad_message" in answer.detail
    assert worker.counters["refused"] == 1
