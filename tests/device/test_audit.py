"""Answers that are computed again: honest ones hold, altered ones do not, and a cheat is caught in time."""

import random
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tiny import sentences

from common.engine.choice import choose_policy
from common.engine.entrance import Entrance
from common.engine.escalation import Escalation, unpack_state
from common.engine.pipeline import Exited, Pipeline
from common.engine.thinness import Thinness
from common.errors import ModelMismatchError, WireError
from common.model.bundle import Bundle, open_bundle
from common.types import Hop, Tier
from common.wire.activations import CODEC_NAMES
from common.wire.messages import HiddenStates, Outcome
from device_agent import audit as audits
from device_agent.audit import Audit, requests_until_caught
from tests.engine.test_thin_links import with_link

TEXTS = tuple(dict.fromkeys(text for text, _ in sentences(40, seed=9)))
THIN = Thinness(codec="int8", budget=4, tokens=0.5)


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


def carried_on(site: Any, tmp_path: Path, thinness: Thinness) -> tuple[Audit, list[tuple[HiddenStates, Outcome]]]:
    """Give the audit of a device whose edge escalates all it gets, so thin, and what it was asked to look into."""
    site.bundle = with_link(site.bundle, tmp_path, split_point=2)
    site.start_recorder()
    site.start_tier(Tier.EDGE, thinness=thinness)
    site.start_tier(Tier.CLOUD)
    agent = site.start_device(audit_rate=1.0)
    audit, claims = agent._settler._audit, []
    audit.consider = lambda *claim: claims.append(claim)
    for text in TEXTS:
        assert agent.classify(text).hops[-1].codec == thinness.codec
    site.wait_for(lambda: len(claims) == len(TEXTS))
    return audit, claims


@pytest.mark.parametrize("thinness", [THIN, *(Thinness(codec=name) for name in CODEC_NAMES)], ids=str)
def test_what_an_edge_packs_anew_is_no_cheat(site: Any, tmp_path: Path, thinness: Thinness) -> None:
    audit, claims = carried_on(site, tmp_path, thinness)

    assert all(audit.holds(message, outcome) for message, outcome in claims)
    for message, outcome in claims:
        assert not audit.holds(message, msgspec.structs.replace(outcome, logits=tuple(9 + x for x in outcome.logits)))


@pytest.mark.parametrize(
    "lie",
    [{"received_width": 5}, {"received_width": 15}, {"received_tokens": 0}, {"received_tokens": 99}, {"start": 3}],
    ids=str,
)
def test_a_form_in_which_the_states_cannot_have_come_is_a_cheat(site: Any, tmp_path: Path, lie: dict[str, int]) -> None:
    audit, ((message, outcome), *_) = carried_on(site, tmp_path, THIN)
    edge, cloud = outcome.hops[1:]
    if "start" in lie:
        edge = msgspec.structs.replace(edge, end=3)
    hops = (outcome.hops[0], edge, msgspec.structs.replace(cloud, **lie))

    assert not audit.holds(message, msgspec.structs.replace(outcome, hops=hops))


def test_a_form_that_this_device_does_not_know_cannot_be_judged(site: Any, tmp_path: Path) -> None:
    audit, ((message, outcome), *_) = carried_on(site, tmp_path, THIN)
    newer = msgspec.structs.replace(outcome.hops[-1], codec="int2")

    with pytest.raises(WireError, match="int2"):
        audit.holds(message, msgspec.structs.replace(outcome, hops=(*outcome.hops[:-1], newer)))


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
