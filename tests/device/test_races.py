"""The device's own exit against another tier: the first answers, and what the second said is logged with it."""

import threading
from pathlib import Path
from typing import Any

import pytest

from common.store.engine import readable_log
from common.store.outbox import outbox_file
from common.store.queries import find
from common.store.statistics import stats
from common.types import Race, Reason, Tier
from common.wire import codec
from common.wire.topics import Topics
from tests.device.test_settler import ask, outcome

TOPICS = Topics("home")
LIMIT_S = 60.0


def records_of(site: Any, request_id: str) -> list[Any]:
    return [record for record in site.records if record.answer.request_id == request_id]


def test_what_a_late_outcome_says_is_added_to_a_record_that_was_sent(site: Any) -> None:
    site.start_recorder()
    agent = site.start_device(budget_ms=200.0)
    future, request, tier = ask(site, agent)
    answer = future.result(LIMIT_S)
    assert agent.wait_recorded(LIMIT_S) == 0

    tier.publish(TOPICS.outcome("pi-1"), codec.encode(outcome(request)))
    site.wait_for(lambda: len(records_of(site, answer.request_id)) == 2)

    assert (answer.reason, answer.exit_tier) == (Reason.DEGRADED, Tier.DEVICE)
    first, second = records_of(site, answer.request_id)
    assert first.race == Race()
    assert second.race == Race(loser_tier=Tier.EDGE, loser_label="1", loser_confidence=pytest.approx(0.9))
    assert second.answer == first.answer
    assert agent.counters["late_or_duplicate"] == 1


def test_a_local_answer_that_was_beaten_is_logged_with_the_outcome(site: Any) -> None:
    site.start_recorder()
    agent = site.start_device(policy="edge-only", shadow_ms=0.0)
    is_known = threading.Event()
    agent._settler._shadow._then = lambda _: is_known.set()
    future, request, tier = ask(site, agent)
    assert is_known.wait(LIMIT_S)

    tier.publish(TOPICS.outcome("pi-1"), codec.encode(outcome(request)))

    answer = future.result(LIMIT_S)
    assert agent.wait_recorded(LIMIT_S) == 0
    (record,) = records_of(site, answer.request_id)
    assert answer.exit_tier is Tier.EDGE
    assert record.race.loser_tier is Tier.DEVICE
    assert record.race.loser_label in {"0", "1"}


def test_a_shadow_that_comes_after_the_outcome_is_added(site: Any) -> None:
    site.start_recorder()
    has_begun, may_end = threading.Event(), threading.Event()
    agent = site.start_device(policy="edge-only", shadow_ms=0.0)
    shadow = agent._settler._shadow
    run_here = shadow._run_here
    shadow._run_here = lambda pending: (has_begun.set(), may_end.wait(LIMIT_S), run_here(pending))[2]
    future, request, tier = ask(site, agent)
    assert has_begun.wait(LIMIT_S)

    tier.publish(TOPICS.outcome("pi-1"), codec.encode(outcome(request)))
    answer = future.result(LIMIT_S)
    assert agent.wait_recorded(LIMIT_S) == 0
    may_end.set()
    site.wait_for(lambda: len(records_of(site, answer.request_id)) == 2)

    assert records_of(site, answer.request_id)[0].race is None
    assert records_of(site, answer.request_id)[1].race.loser_tier is Tier.DEVICE


def test_a_second_outcome_of_the_winner_is_no_loser(site: Any) -> None:
    site.start_recorder()
    agent = site.start_device()
    future, request, tier = ask(site, agent)
    for _ in range(2):
        tier.publish(TOPICS.outcome("pi-1"), codec.encode(outcome(request)))
    answer = future.result(LIMIT_S)
    agent.__exit__(None, None, None)

    assert [record.race for record in records_of(site, answer.request_id)] == [None]


def test_an_addition_outlives_the_process(site: Any, tmp_path: Path) -> None:
    path = tmp_path / "outbox.sqlite"
    agent = site.start_device(budget_ms=100.0, outbox=path, drain_s=0.0)
    future, request, tier = ask(site, agent)
    answer = future.result(LIMIT_S)

    tier.publish(TOPICS.outcome("pi-1"), codec.encode(outcome(request)))
    site.wait_for(lambda: agent.counters.get("late_or_duplicate") == 1)
    agent.__exit__(None, None, None)

    with outbox_file(path, max_remembered=1) as file:
        (kept,) = file.load().unrecorded
    message: Any = codec.decode(kept.record)
    assert (kept.request_id, message.record.race.loser_tier) == (answer.request_id, Tier.EDGE)


def test_the_log_gets_the_loser_into_the_one_row(site: Any, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/log.sqlite"
    with site.recording(url):
        agent = site.start_device(budget_ms=200.0)
        future, request, tier = ask(site, agent)
        answer = future.result(LIMIT_S)
        assert agent.wait_recorded(LIMIT_S) == 0
        tier.publish(TOPICS.outcome("pi-1"), codec.encode(outcome(request)))
        site.wait_for(lambda: agent.counters.get("late_or_duplicate") == 1)
        assert agent.wait_recorded(LIMIT_S) == 0

    with readable_log(url) as engine:
        row = find(engine, answer.request_id)
        reckoned = stats(engine)
    assert row is not None
    assert (row.race_winner, row.loser_tier, row.loser_label) == (Tier.DEVICE, Tier.EDGE, "1")
    assert (reckoned.requests, reckoned.races.requests, reckoned.races.won_by_device) == (1, 1, 1)
    assert (reckoned.races.compared, reckoned.races.agreed) == (1, int(row.label == "1"))
