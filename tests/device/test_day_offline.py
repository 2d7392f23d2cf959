"""A day without the network: the outbox fills to its cap, memory stays flat, and all of it arrives in order."""

import os
from pathlib import Path
from typing import Any

import pytest
from tiny import sentences

from common.errors import OverloadedError

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
