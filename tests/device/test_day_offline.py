"""A day without the network: the outbox fills to its cap, memory stays flat, and all of it arrives in order."""

import os
import random
import time
from pathlib import Path
from typing import Any

import pytest
from tiny import sentences

from common.errors import OverloadedError
from common.store.outbox import outbox_file
from common.store.promises import Accepted, Promised
from common.types import Reason

CAP = 10_000
LIMIT_S = 120.0


def rss_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.timeout(400)
def test_ten_thousand_answers_wait_for_the_log_and_reach_it_once_and_in_order(
    site: Any, tmp_path: Path, record_property: Any
) -> None:
    path = tmp_path / "outbox.sqlite"
    site.broker.stop()
    agent = site.start_device(policy="device-only", outbox=path, max_unrecorded=CAP, drain_s=0.1)
    texts = [text for text, _ in sentences(100, seed=5)]

    ids = [agent.classify(texts[number % 100]).request_id for number in range(1000)]
    early_mb = rss_mb()
    ids += [agent.classify(texts[number % 100]).request_id for number in range(1000, CAP)]
    grown_mb = rss_mb() - early_mb
    with pytest.raises(OverloadedError, match=r"device\.max_unrecorded"):
        agent.classify("one more")
    agent.__exit__(None, None, None)
    again = site.start_device(policy="device-only", outbox=path, max_unrecorded=CAP)
    site.start_recorder()
    site.broker.start()

    assert again.wait_recorded(LIMIT_S) == 0
    record_property("grown_mb", grown_mb)
    assert grown_mb < 30
    first_seen = list(dict.fromkeys(record.answer.request_id for record in site.records))
    assert first_seen == ids


@pytest.mark.timeout(400)
def test_ten_thousand_unanswered_requests_of_yesterday_are_settled_in_order_of_deadline(
    site: Any, tmp_path: Path, record_property: Any
) -> None:
    path, texts = tmp_path / "outbox.sqlite", [text for text, _ in sentences(100, seed=5)]
    yesterday, places = time.time() - 86_400, list(range(CAP))
    random.Random(3).shuffle(places)
    with outbox_file(path, max_remembered=1) as file:
        file.apply([Accepted(_waiting(place, yesterday, texts)) for place in places])
    site.broker.stop()

    agent = site.start_device(policy="cloud-only", outbox=path, max_unrecorded=CAP)
    agent.recovered[999].future.result(LIMIT_S)
    early_mb = rss_mb()
    answers = [one.future.result(LIMIT_S) for one in agent.recovered]
    grown_mb = rss_mb() - early_mb
    site.start_recorder()
    site.broker.start()

    assert agent.wait_recorded(LIMIT_S) == 0
    record_property("grown_mb", grown_mb)
    assert grown_mb < 30
    assert {answer.reason for answer in answers} == {Reason.DEGRADED}
    assert {answer.detail for answer in answers} == {"its budget ran out while the device was down"}
    first_seen = list(dict.fromkeys(record.answer.request_id for record in site.records))
    assert first_seen == [f"r{place:05}" for place in range(CAP)]


def _waiting(place: int, since: float, texts: list[str]) -> Promised:
    deadline = since + place / 10  # the later ones wait longer
    return Promised(request_id=f"r{place:05}", created_at=since, deadline=deadline, text=texts[place % 100])
