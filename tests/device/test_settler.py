"""Races and bad news on the way to the one answer."""

import threading
import time
from concurrent.futures import Future
from typing import Any

import msgpack
import pytest

from common.errors import CrashError, WireError
from common.routing.selection import Profile
from common.store.promises import Promised
from common.transport.contract import Inbox
from common.types import Hop, Reason, Tier
from common.wire import codec
from common.wire.messages import Failure, HiddenStates, LogRecord, Outcome, Tensor
from common.wire.topics import Topics
from device_agent.settler import Settler

TOPICS = Topics("home")
TEXT = "a fine warm film"
LIMIT_S = 60.0


def ask(site: Any, agent: Any) -> tuple[Any, HiddenStates, Any]:
    """Submit a text and take its request as a tier would."""
    tier, requests = site.transport("edge"), Inbox(10)
    tier.subscribe(TOPICS.request(Tier.EDGE), requests)
    future = agent.submit(TEXT)
    delivery = requests.get(LIMIT_S)
    assert delivery is not None
    request = codec.decode(delivery.payload)
    assert isinstance(request, HiddenStates)
    return future, request, tier


def outcome(request: HiddenStates, **changes: Any) -> Outcome:
    hop = Hop(tier=Tier.EDGE, node="edge-1", start=1, end=2, queue_ms=0.0, compute_ms=1.0)
    fields = {
        "request_id": request.request_id,
        "model_revision": request.model_revision,
        "reason": Reason.FINAL,
        "logits": (0.0, 9.0),
        "confidence": 0.9,
        "exit_layer": 2,
        "threshold": None,
        "hops": (*request.hops, hop),
    }
    return Outcome(**(fields | changes))


@pytest.mark.parametrize("changes", [{"exit_layer": 99}, {"logits": (1.0,)}])
def test_an_outcome_that_fits_no_model_is_answered_degraded(site: Any, changes: dict[str, Any]) -> None:
    site.start_recorder()
    agent = site.start_device()
    future, request, tier = ask(site, agent)

    tier.publish(TOPICS.outcome("pi-1"), codec.encode(outcome(request, **changes)))

    answer = future.result(LIMIT_S)
    assert (answer.reason, answer.exit_tier) == (Reason.DEGRADED, Tier.DEVICE)
    assert "outcome refused" in answer.detail


@pytest.mark.parametrize("logit", [float("nan"), float("inf"), 1e300])
def test_logits_that_are_no_numbers_are_refused_on_the_wire(logit: float) -> None:
    request = HiddenStates(
        request_id="r",
        device_id="d",
        model_revision="m",
        split_point=0,
        budget_ms=1.0,
        codec="int8",
        tensors=(Tensor("|i1", (1,), b"0"),),
    )
    fields = msgpack.unpackb(codec.encode(outcome(request)), use_list=True)
    fields[4][0] = logit

    with pytest.raises(WireError):
        codec.decode(msgpack.packb(fields))


def test_a_number_too_large_for_the_wire_harms_nobody(site: Any) -> None:
    site.start_recorder()
    agent = site.start_device(budget_ms=500.0)
    future, request, tier = ask(site, agent)
    fields = msgpack.unpackb(codec.encode(outcome(request)), use_list=True)
    fields[-1][-1][5] = 1e300  # compute_ms of the last hop; it would not fit the record's single precision

    tier.publish(TOPICS.outcome("pi-1"), msgpack.packb(fields))

    assert future.result(LIMIT_S).reason is Reason.DEGRADED
    assert agent.classify(TEXT).label is not None


def test_a_network_that_was_slow_leaves_the_tiers_time_to_show_that_it_is_quick_again(site: Any) -> None:
    site.start_recorder()
    agent = site.start_device(budget_ms=60_000.0)
    agent._settler._sender._network = Profile(mean_ms=60_000.0, measurements=9)

    future, request, tier = ask(site, agent)
    tier.publish(TOPICS.outcome("pi-1"), codec.encode(outcome(request)))

    assert request.budget_ms == pytest.approx(30_000, rel=0.5)
    assert future.result(LIMIT_S).reason is Reason.FINAL


def test_a_cancelled_future_does_not_stop_the_settler(site: Any) -> None:
    site.start_recorder()
    agent = site.start_device(budget_ms=300.0)

    future = agent.submit(TEXT)

    assert not future.cancel()
    assert future.result(LIMIT_S).reason is Reason.DEGRADED


def test_words_that_no_column_holds_do_not_keep_a_record_from_the_log(site: Any) -> None:
    site.start_recorder()
    agent = site.start_device(budget_ms=2000.0)
    future, request, tier = ask(site, agent)
    said = Failure(request_id=request.request_id, code="internal", detail="a\0b" * 1000, node="edge-1")

    tier.publish(TOPICS.outcome("pi-1"), codec.encode(said))
    answer = future.result(LIMIT_S)

    assert "\0" not in answer.detail
    assert len(answer.detail) <= 400
    agent.submit("fine\0film", true_label="a\0b").result(LIMIT_S)
    assert agent.wait_recorded(LIMIT_S) == 0
    assert not any("\0" in (record.text or "") for record in site.records)


def test_a_record_that_the_recorder_refuses_is_set_aside_and_does_not_come_again(site: Any) -> None:
    agent = site.start_device(policy="device-only")
    recorder, records = site.transport("recorder"), Inbox(10)
    recorder.subscribe(TOPICS.log, records)
    answer = agent.classify(TEXT)
    refusal = Failure(request_id=answer.request_id, code="record_refused", detail="no such column", node="edge-1")

    recorder.publish(TOPICS.outcome("pi-1"), codec.encode(refusal))

    assert agent.wait_recorded(LIMIT_S) == 0
    assert agent.counters["quarantined"] == 1


def test_a_worker_that_refuses_too_late_does_not_keep_the_record_from_the_log(site: Any) -> None:
    agent = site.start_device(budget_ms=100.0)
    future, request, tier = ask(site, agent)
    answer = future.result(LIMIT_S)
    late = Failure(request_id=request.request_id, code="overloaded", detail="too much waits", node="edge-1")

    tier.publish(TOPICS.outcome("pi-1"), codec.encode(late))
    site.wait_for(lambda: agent.counters.get("late_or_duplicate") == 1)
    site.start_recorder()

    assert agent.wait_recorded(LIMIT_S) == 0
    assert [record.answer.request_id for record in site.records] == [answer.request_id]
    assert "quarantined" not in agent.counters


def test_requests_that_find_no_place_in_flight_are_answered_within_their_budget(site: Any) -> None:
    site.start_recorder()
    agent = site.start_device(max_in_flight=1, budget_ms=400.0)
    agent._departures._places.acquire()  # by a request that is out for longer than any of these may wait
    answers: list[Any] = []
    threads = [threading.Thread(target=lambda: answers.append(agent.classify(TEXT))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)

    assert [answer.reason for answer in answers] == [Reason.DEGRADED] * 6
    assert {answer.detail for answer in answers} == {"no place in flight (device.max_in_flight 1)"}


def test_a_place_in_flight_is_not_waited_for_once_the_network_would_take_the_rest_of_the_budget(site: Any) -> None:
    site.start_recorder()
    agent = site.start_device(max_in_flight=1, budget_ms=60_000.0)
    agent._settler._sender._network = Profile(mean_ms=60_000.0, measurements=2)
    agent._departures._places.acquire()
    answers: list[Any] = []

    thread = threading.Thread(target=lambda: answers.append(agent.classify(TEXT)))
    thread.start()
    thread.join(LIMIT_S)
    agent._departures._places.release()  # whatever happened, nobody waits a minute
    thread.join()

    assert "max_in_flight" in answers[0].detail


def test_a_request_that_leaves_late_does_not_outlast_its_deadline_while_the_settler_waits(site: Any) -> None:
    site.start_recorder()
    agent = site.start_device(budget_ms=60_000.0, shadow_ms=60_000.0, retry_ms=60_000.0)
    promised = Promised(request_id="late", created_at=time.time() - 59, deadline=time.time() + 1, text=TEXT)
    future: Future[Any] = Future()

    agent.resume(promised, future)

    assert future.result(LIMIT_S).reason is Reason.DEGRADED


def test_records_keep_the_time_of_their_request(site: Any) -> None:
    site.start_recorder()
    agent = site.start_device(policy="device-only")
    before = time.time()
    agent.classify(TEXT)
    assert agent.wait_recorded(LIMIT_S) == 0

    (record,) = site.records
    assert before <= record.created_at <= time.time()
    assert isinstance(codec.decode(codec.encode(LogRecord(record=record))), LogRecord)


def test_a_dead_settler_leaves_nobody_waiting(site: Any, monkeypatch: Any) -> None:
    agent = site.start_device(drain_s=0.1)
    future, request, tier = ask(site, agent)
    monkeypatch.setattr(Settler, "_receive", lambda *_: 1 / 0)

    tier.publish(TOPICS.outcome("pi-1"), codec.encode(outcome(request)))

    with pytest.raises(CrashError, match="settler"):
        future.result(LIMIT_S)
    with pytest.raises(CrashError):
        agent.submit(TEXT).result(LIMIT_S)
