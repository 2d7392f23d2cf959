"""Answers that are computed again: honest ones hold, altered ones do not, and a cheat is caught in time."""

import random
from pathlib import Path

import msgspec
import pytest
from tiny import sentences

from common.engine.choice import choose_policy
from common.engine.entrance import Entrance
from common.engine.escalation import Escalation, unpack_state
from common.engine.pipeline import Exited, Pipeline
from common.errors import ModelMismatchError
from common.model.bundle import Bundle, open_bundle
from common.types import Hop, Tier
from common.wire.messages import HiddenStates, Outcome
from device_agent import audit as audits
from device_agent.audit import Audit, requests_until_caught

TEXTS = tuple(dict.fromkeys(text for text, _ in sentences(40, seed=9)))


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return open_bundle(str(tiny_bundle))


def answers(bundle: Bundle, policy_name: str = "edge-only") -> list[tuple[HiddenStates, Outcome]]:
    """Give what left a device and what an honest tier made of it."""
    policy = choose_policy(bundle, policy_name)
    entrance, escalation = Entrance(bundle, policy), Escalation(bundle.manifest, "int8")
    tier = Pipeline(bundle, policy, depth=bundle.manifest.depths.cloud)
    found = []
    for text in TEXTS:
        state = entrance.enter(text).state
        message = escalation.pack("r1", "pi-1", state, budget_ms=1000.0, hops=())
        found.append((message, outcome_of(tier, message)))
    return found


def outcome_of(tier: Pipeline, message: HiddenStates) -> Outcome:
    (verdict,) = tier.advance([unpack_state(message, tier.manifest)])
    assert isinstance(verdict, Exited)
    hop = Hop(tier=Tier.EDGE, node="edge-1", start=0, end=verdict.layer, queue_ms=0.0, compute_ms=1.0)
    return Outcome(
        request_id="r1",
        model_revision=message.model_revision,
        reason=verdict.reason,
        logits=verdict.logits,
        confidence=verdict.confidence,
        exit_layer=verdict.layer,
        threshold=None,
        hops=(hop,),
    )


@pytest.mark.parametrize("policy", ["edge-only", "cloud-only", "confidence-cascade"])
def test_every_honest_answer_holds(bundle: Bundle, policy: str) -> None:
    audit = Audit(bundle, rate=1.0)

    assert all(audit.holds(message, outcome) for message, outcome in answers(bundle, policy))


def test_no_altered_answer_holds(bundle: Bundle) -> None:
    audit = Audit(bundle, rate=1.0)

    for message, outcome in answers(bundle):
        flipped = msgspec.structs.replace(outcome, logits=tuple(reversed(outcome.logits)))
        elsewhere = msgspec.structs.replace(outcome, exit_layer=99)
        is_clear = abs(outcome.logits[0] - outcome.logits[1]) > audits.TOLERANCE
        assert not audit.holds(message, elsewhere)
        assert audit.holds(message, flipped) != is_clear


def test_what_cannot_be_computed_again_is_said(bundle: Bundle) -> None:
    message, outcome = answers(bundle)[0]

    with pytest.raises(ModelMismatchError):
        Audit(bundle, rate=1.0).holds(msgspec.structs.replace(message, model_revision="another"), outcome)


def test_a_cheat_is_found_and_counted(bundle: Bundle) -> None:
    given = answers(bundle)
    with Audit(bundle, rate=1.0) as audit:
        for number, (message, outcome) in enumerate(given):
            altered = msgspec.structs.replace(outcome, logits=tuple(5.0 + logit for logit in outcome.logits))
            audit.consider(message, altered if number == 3 else outcome)

    assert audit.counters["audited"] == len(given)
    assert audit.counters["audit_failed"] == 1


@pytest.mark.parametrize("rate", [1.0, 0.25, 0.05])
def test_who_alters_one_answer_in_a_hundred_is_caught_in_the_stated_number_with_99_percent(rate: float) -> None:
    cheat, trials = random.Random(17), 1000
    most = requests_until_caught(0.01, rate)

    def is_caught() -> bool:
        return any(cheat.random() < 0.01 and audits.is_drawn(rate) for _ in range(most))

    caught = sum(is_caught() for _ in range(trials))

    assert caught >= 0.99 * trials - 4 * (trials * 0.99 * 0.01) ** 0.5  # four standard deviations


def test_the_stated_numbers() -> None:
    assert [requests_until_caught(0.01, rate) for rate in (1.0, 0.25, 0.05)] == [459, 1840, 9209]
