"""Every accepted request ends in exactly one answer and one record, whatever the tiers do."""

from concurrent.futures import Future, wait
from typing import Any

import pytest
from tiny import sentences

from common.engine.pipeline import State
from common.errors import InputError, OverloadedError
from common.transport.contract import Inbox
from common.types import Answer, Reason, Tier
from common.wire import codec
from common.wire.documents import Input
from common.wire.messages import Failure, HiddenStates, Outcome
from common.wire.topics import Topics

TEXT = "a fine warm film"
TOPICS = Topics("home")
LIMIT_S = 60.0


def test_a_confident_device_answers_alone(site: Any) -> None:
    site.start_recorder()
    agent = site.start_device(policy="device-only")

    answer = agent.classify(TEXT)

    assert (answer.exit_tier, answer.exit_layer, answer.payload_bytes, answer.cost) == (Tier.DEVICE, 1, 0, 1.0)
    assert [hop.tier for hop in answer.hops] == [Tier.DEVICE]


def test_an_unsure_device_escalates_and_the_cloud_has_the_last_word(site: Any) -> None:
    site.start_recorder()
    site.start_tier(Tier.EDGE)
    site.start_tier(Tier.CLOUD)
    agent = site.start_device()

    answer = agent.classify(TEXT)

    assert (answer.exit_tier, answer.reason, answer.exit_layer) == (Tier.CLOUD, Reason.FINAL, 3)
    assert [(hop.tier, hop.start, hop.end) for hop in answer.hops] == [
        (Tier.DEVICE, 0, 1),
        (Tier.EDGE, 1, 2),
        (Tier.CLOUD, 2, 3),
    ]
    assert answer.cost == 1 + 3 + 1 + 2 + 1  # three layers, device to edge, edge to cloud
    assert answer.payload_bytes == sum(hop.received_bytes for hop in answer.hops)


@pytest.mark.parametrize(("policy", "tier", "layer"), [("edge-only", Tier.EDGE, 2), ("cloud-only", Tier.CLOUD, 3)])
def test_an_offload_leaves_before_layer_0(site: Any, policy: str, tier: Tier, layer: int) -> None:
    site.start_recorder()
    site.start_tier(tier, thresholds={layer: 0.0})
    agent = site.start_device(policy=policy)

    answer = agent.classify(TEXT)

    assert (answer.entry_tier, answer.exit_tier, answer.exit_layer) == (tier, tier, layer)
    assert [(hop.tier, hop.start) for hop in answer.hops] == [(tier, 0)]


@pytest.mark.parametrize("policy", ["unsure", "cloud-only"])
def test_without_tiers_the_device_answers_degraded_within_its_budget(site: Any, policy: str) -> None:
    site.start_recorder()
    agent = site.start_device(policy=policy, budget_ms=300.0)

    answer = agent.classify(TEXT)

    assert (answer.reason, answer.exit_tier, answer.exit_layer) == (Reason.DEGRADED, Tier.DEVICE, 1)
    assert answer.label is not None
    assert "300 ms" in answer.detail
    assert agent.counters["deadline_missed"] == 1


def test_many_requests_in_flight_get_one_answer_and_one_record_each(site: Any) -> None:
    site.start_recorder()
    site.start_tier(Tier.EDGE, thresholds={2: 0.999})
    site.start_tier(Tier.CLOUD)
    agent = site.start_device(max_in_flight=32)

    futures = [agent.submit(text, true_label=label) for text, label in sentences(200, seed=3)]
    done, _ = wait(futures, timeout=LIMIT_S)
    agent.__exit__(None, None, None)

    answered = sorted(future.result().request_id for future in done)
    assert len(set(answered)) == 200
    assert sorted(record.answer.request_id for record in site.records) == answered


def test_a_lost_request_is_sent_again_and_repeated_rather_than_recomputed(site: Any) -> None:
    site.start_recorder()
    lost, inbox = site.transport("ears"), Inbox(10)
    lost.subscribe(TOPICS.request(Tier.EDGE), inbox, group="edge")  # takes its share and says nothing
    edge = site.start_tier(Tier.EDGE, thresholds={2: 0.0})
    agent = site.start_device(retry_ms=50.0)

    answers = [agent.classify(TEXT) for _ in range(4)]

    assert all(answer.reason is Reason.CONFIDENT for answer in answers)
    assert max(answer.attempts for answer in answers) > 1
    assert edge.counters["answered"] == 4


def test_a_second_outcome_for_one_request_is_counted_and_not_answered_again(site: Any) -> None:
    site.start_recorder()
    edge = site.start_tier(Tier.EDGE, thresholds={2: 0.0})
    agent = site.start_device(retry_ms=30_000.0)  # the device itself repeats nothing
    ears, requests = site.transport("ears"), Inbox(10)
    ears.subscribe(TOPICS.request(Tier.EDGE), requests)
    first = agent.classify(TEXT)
    request = requests.get(LIMIT_S)
    assert request is not None

    ears.publish(TOPICS.request(Tier.EDGE), request.payload)  # the same request again, as a broker may deliver it
    second = agent.classify(TEXT)  # behind the repeated outcome in every queue

    assert first.request_id != second.request_id
    assert edge.counters["repeated"] == 1
    assert agent.counters["late_or_duplicate"] == 1
    agent.__exit__(None, None, None)
    assert len(site.records) == 2


def test_a_failure_is_answered_degraded_with_its_reason(site: Any) -> None:
    site.start_recorder()
    agent = site.start_device()
    tier, requests = site.transport("edge"), Inbox(10)
    tier.subscribe(TOPICS.request(Tier.EDGE), requests)

    future = agent.submit(TEXT)
    delivery = requests.get(LIMIT_S)
    assert delivery is not None
    request = codec.decode(delivery.payload)
    assert isinstance(request, HiddenStates)
    failure = Failure(request_id=request.request_id, code="model_mismatch", detail="other revision", node="edge-1")
    tier.publish(TOPICS.outcome("pi-1"), codec.encode(failure))

    answer = future.result(LIMIT_S)
    assert answer.reason is Reason.DEGRADED
    assert answer.detail == "edge-1: model_mismatch: other revision"


def test_an_outcome_with_foreign_classes_is_answered_degraded(site: Any) -> None:
    site.start_recorder()
    agent = site.start_device()
    tier, requests = site.transport("edge"), Inbox(10)
    tier.subscribe(TOPICS.request(Tier.EDGE), requests)

    future = agent.submit(TEXT)
    delivery = requests.get(LIMIT_S)
    assert delivery is not None
    request = codec.decode(delivery.payload)
    assert isinstance(request, HiddenStates)
    outcome = Outcome(
        request_id=request.request_id,
        model_revision=request.model_revision,
        reason=Reason.FINAL,
        logits=(0.0, 0.0, 9.0),
        confidence=0.9,
        exit_layer=2,
        threshold=None,
        hops=request.hops,
    )
    tier.publish(TOPICS.outcome("pi-1"), codec.encode(outcome))

    assert future.result(LIMIT_S).reason is Reason.DEGRADED


def test_bad_bytes_on_the_outcome_topic_harm_nothing(site: Any) -> None:
    site.start_recorder()
    site.start_tier(Tier.EDGE, thresholds={2: 0.0})
    agent = site.start_device()
    site.transport("stranger").publish(TOPICS.outcome("pi-1"), b"\xc1 nonsense")

    assert agent.classify(TEXT).reason is Reason.CONFIDENT
    assert agent.counters["refused"] == 1


def test_records_wait_for_the_recorder_and_new_requests_are_refused_when_too_many_do(site: Any) -> None:
    agent = site.start_device(policy="device-only", max_unrecorded=2)
    agent.classify(TEXT)
    agent.classify(TEXT)

    with pytest.raises(OverloadedError, match=r"device\.max_unrecorded"):
        agent.classify(TEXT)

    site.start_recorder()
    agent.__exit__(None, None, None)  # waits for the receipts
    assert len(site.records) == 2


@pytest.mark.parametrize("text", ["", "   ", "\n"])
def test_an_empty_text_is_refused_before_it_is_accepted(site: Any, text: str) -> None:
    agent = site.start_device()

    with pytest.raises(InputError, match="empty"):
        agent.submit(text)


def test_a_long_text_is_cut_and_said_so(site: Any) -> None:
    site.start_recorder()
    agent = site.start_device(policy="device-only")

    answer = agent.classify("fine film " * 10_000)

    assert answer.is_truncated
    assert answer.tokens == 32


def test_inputs_accepted_together_are_answered_as_each_alone(site: Any) -> None:
    site.start_recorder()
    site.start_tier(Tier.EDGE, thresholds={2: 0.0})
    agent = site.start_device(policy="dimee")
    texts = [text for text, _ in sentences(20, seed=7)]

    accepted = agent.submit_all([*map(Input, texts[:5]), Input("  "), *map(Input, texts[5:])])
    refused = accepted.pop(5)
    together = [one.result(LIMIT_S) for one in accepted if isinstance(one, Future)]
    alone = [agent.classify(text) for text in texts]

    assert isinstance(refused, InputError)
    assert [_said(answer) for answer in together] == [_said(answer) for answer in alone]
    agent.__exit__(None, None, None)
    assert len(site.records) == 40


def _said(answer: Answer) -> tuple[Any, ...]:
    return answer.label, answer.confidence, answer.exit_layer, answer.pool, answer.distances, answer.tokens


def test_one_input_that_breaks_the_layers_leaves_those_beside_it_alone(site: Any, monkeypatch: Any) -> None:
    site.start_recorder()
    site.start_tier(Tier.EDGE, thresholds={2: 0.0})
    agent = site.start_device(policy="device-only")
    advance = agent._model.pipeline.advance

    def fragile(states: list[State], **options: Any) -> Any:
        if any(len(state.hidden_states) > 8 for state in states):
            raise RuntimeError("broken input")
        return advance(states, **options)

    monkeypatch.setattr(agent._model.pipeline, "advance", fragile)
    accepted = agent.submit_all([Input("fine"), Input("fine film " * 10), Input("film")])
    answers = [one.result(LIMIT_S) for one in accepted if isinstance(one, Future)]

    assert [answer.exit_tier for answer in answers] == [Tier.DEVICE, Tier.EDGE, Tier.DEVICE]


def test_records_that_finish_shortly_after_each_other_travel_together(site: Any) -> None:
    site.start_recorder()
    ears, heard = site.transport("ears"), Inbox(1000)
    ears.subscribe(TOPICS.log, heard)
    agent = site.start_device(policy="device-only")

    accepted = agent.submit_all([Input("fine film")] * 8)
    wait([one for one in accepted if isinstance(one, Future)], timeout=LIMIT_S)
    agent.__exit__(None, None, None)

    assert len(site.records) == 8
    assert len(heard) == 2  # the first alone, as nothing was sent before it, and the others when the device stopped


def test_of_inputs_accepted_together_those_beyond_the_bound_are_refused(site: Any) -> None:
    agent = site.start_device(policy="device-only", max_unrecorded=3, drain_s=0.1)

    accepted = agent.submit_all([Input("fine film")] * 5)

    assert [type(one) for one in accepted] == [Future, Future, Future, OverloadedError, OverloadedError]
    assert "max_unrecorded" in str(accepted[-1])
