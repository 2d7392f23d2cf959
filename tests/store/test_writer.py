"""The writer keeps what it accepted, once, and never fails in silence."""

import logging
import math
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa

from common.errors import OverloadedError, StoreError, TransportError, WireError
from common.store.queries import newest
from common.store.schema import hop, request_log
from common.store.writer import Committed, RequestLogWriter
from common.types import Race, Reason, Tier
from tests.store.conftest import RecordMaker

LIMIT_S = 60.0


def count(engine: sa.Engine, table: sa.Table) -> int:
    with engine.connect() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()


def test_a_record_becomes_one_row_and_one_per_hop(log: sa.Engine, record: RecordMaker) -> None:
    with RequestLogWriter(log) as writer:
        writer.append(record())

    assert (count(log, request_log), count(log, hop), writer.uncommitted) == (1, 2, 0)


def test_a_repeated_record_is_ignored_and_reported_again(log: sa.Engine, record: RecordMaker) -> None:
    committed: list[Committed] = []

    for _ in range(2):
        with RequestLogWriter(log, committed.extend) as writer:
            writer.append(record("twice", label="positive"))
            writer.append(record("twice", label="negative", hops=()))

    assert [one.request_id for one in committed] == ["twice"] * 4
    assert (count(log, request_log), count(log, hop)) == (1, 2)
    with log.connect() as connection:
        assert connection.scalar(sa.select(request_log.c.label)) == "positive"


def test_hops_of_a_later_repeat_do_not_join_the_first_record(log: sa.Engine, record: RecordMaker) -> None:
    with RequestLogWriter(log) as writer:
        writer.append(record(hops=()))
    with RequestLogWriter(log) as writer:
        writer.append(record())

    assert count(log, hop) == 0


def test_receipts_come_only_after_the_commit(log: sa.Engine, record: RecordMaker) -> None:
    seen: list[int] = []

    with RequestLogWriter(log, lambda _: seen.append(count(log, request_log))) as writer:
        writer.append(record())

    assert seen == [1]


def test_failing_receipts_do_not_stop_the_log(
    log: sa.Engine, record: RecordMaker, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: tuple[str, ...]) -> None:
        raise TransportError("not connected")

    with RequestLogWriter(log, fail) as writer:
        writer.append(record("a"))
    with RequestLogWriter(log, fail) as writer:
        writer.append(record("b"))

    assert count(log, request_log) == 2
    assert "receipts failed: not connected" in caplog.text


def test_many_threads_append_and_every_record_is_kept(log: sa.Engine, record: RecordMaker) -> None:
    committed: list[Committed] = []

    with RequestLogWriter(log, committed.extend, max_batch=7) as writer:
        threads = [
            threading.Thread(target=lambda t=t: [writer.append(record(f"{t}-{i}")) for i in range(100)])
            for t in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT_S)

    assert sorted(one.request_id for one in committed) == sorted(f"{t}-{i}" for t in range(4) for i in range(100))
    assert count(log, request_log) == 400


def test_a_full_queue_is_refused_at_once_and_loses_nothing_accepted(log: sa.Engine, record: RecordMaker) -> None:
    entered, release = threading.Event(), threading.Event()

    def hold(_: tuple[str, ...]) -> None:
        entered.set()
        release.wait(LIMIT_S)

    with RequestLogWriter(log, hold, max_queued=2) as writer:
        writer.append(record("held"))
        assert entered.wait(LIMIT_S)
        writer.append(record("a"))
        writer.append(record("b"))
        with pytest.raises(OverloadedError, match="2 records wait"):
            writer.append(record("c"))
        release.set()

    assert count(log, request_log) == 3


def test_a_locked_database_is_waited_for(log: sa.Engine, log_path: Path, record: RecordMaker) -> None:
    with log.connect() as connection:  # the engine's own wait is shortened, so that the writer has to retry
        connection.exec_driver_sql("PRAGMA busy_timeout = 10")
    other = sqlite3.connect(log_path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    tried = threading.Event()
    logging.getLogger("common.store.writer").addFilter(lambda _: tried.set() or True)

    with RequestLogWriter(log) as writer:
        writer.append(record())
        assert tried.wait(LIMIT_S)
        other.execute("COMMIT")
        other.close()

    assert (count(log, request_log), writer.crashed) == (1, False)


def test_a_crash_is_visible_and_refuses_further_records(
    log: sa.Engine, record: RecordMaker, caplog: pytest.LogCaptureFixture
) -> None:
    crashed = threading.Event()
    with log.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE hop RENAME TO elsewhere")

    with RequestLogWriter(log, on_crash=crashed.set) as writer:
        writer.append(record())
        assert crashed.wait(LIMIT_S)
        assert writer.crashed
        with pytest.raises(StoreError, match=r"has crashed: .*(no such table: hop|relation \"hop\" does not exist)"):
            writer.append(record("later"))

    assert count(log, request_log) == 0
    assert "1 accepted records were not written" in caplog.text


def test_a_stopped_writer_takes_nothing(log: sa.Engine, record: RecordMaker) -> None:
    with RequestLogWriter(log) as writer:
        pass

    with pytest.raises(StoreError, match="not running"):
        writer.append(record())


def test_a_stop_gives_up_a_locked_log_at_its_limit(
    log: sa.Engine, log_path: Path, record: RecordMaker, caplog: pytest.LogCaptureFixture
) -> None:
    with log.connect() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout = 10")
    other = sqlite3.connect(log_path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    with RequestLogWriter(log, stop_limit_s=0.3) as writer:
        writer.append(record())
    other.close()

    assert writer.uncommitted == 1
    assert "1 accepted records were not written" in caplog.text


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"payload_bytes": 2**64 - 1}, "payload_bytes 18446744073709551615 is beyond 64 bits"),
        ({"total_ms": math.inf}, "total_ms is inf"),
        ({"distances": (0.0, math.nan, 1.0)}, "distance_moderate is nan"),
        ({"distances": (0.0, 1.0)}, "2 distances, expected 3"),
        ({"created_at": 1e300}, "beyond the year 9999"),
        ({"detail": "a\0b"}, "detail holds a NUL"),
        ({"text": "\ud800"}, "text holds a NUL or half a surrogate"),
    ],
)
def test_what_no_column_can_hold_is_the_senders_fault(
    log: sa.Engine, record: RecordMaker, fields: dict[str, object], words: str
) -> None:
    with RequestLogWriter(log) as writer:
        with pytest.raises(WireError, match=words):
            writer.append(record("bad", **fields))
        writer.append(record("good"))

    assert (count(log, request_log), writer.crashed) == (1, False)


_WRITE_FOR_EVER = """
import sys
from common.store.engine import writable_log
from common.store.writer import Committed, RequestLogWriter
from common.types import Answer, Hop, Reason, Record, Tier

hop = Hop(tier=Tier.DEVICE, node="pi-1", start=0, end=2, queue_ms=0.0, compute_ms=1.0)

def tell(done):
    print(*(one.request_id for one in done), flush=True)

with writable_log(sys.argv[1]) as engine, RequestLogWriter(engine, tell) as writer:
    for number in range(10**9):
        answer = Answer(
            request_id=str(number), device_id="pi-1", model_revision="", reason=Reason.CONFIDENT, label="a",
            confidence=1.0, exit_layer=2, exit_tier=Tier.DEVICE, entry_tier=Tier.DEVICE, total_ms=1.0, hops=(hop, hop),
        )
        while True:
            try:
                writer.append(Record(answer=answer, created_at=number))
                break
            except Exception:
                continue
"""


def test_a_killed_process_leaves_whole_batches(log_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _WRITE_FOR_EVER, str(log_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        receipted = [request_id for _ in range(5) for request_id in process.stdout.readline().split()]
        process.kill()

    with sqlite3.connect(log_path) as connection:
        kept = {row[0] for row in connection.execute("SELECT request_id FROM request_log")}
        halves = connection.execute(
            "SELECT count(*) FROM request_log r WHERE 2 <> (SELECT count(*) FROM hop WHERE request_id = r.request_id)"
        ).fetchone()
        sound = connection.execute("PRAGMA integrity_check").fetchone()
    connection.close()

    assert receipted
    assert set(receipted) <= kept
    assert (halves, sound) == ((0,), ("ok",))


def test_who_lost_a_race_is_added_to_the_row_by_its_own_device_and_once(log: sa.Engine, record: RecordMaker) -> None:
    late = Race(loser_tier=Tier.CLOUD, loser_label="negative", loser_confidence=0.75)
    won = record("r-1", exit_tier=Tier.DEVICE, reason=Reason.DEGRADED, race=Race())
    foreign = record("r-1", device_id="other", race=msgspec.structs.replace(late, loser_label="forged"))
    repeated = record("r-1", race=msgspec.structs.replace(late, loser_label="again"))
    for each in (won, foreign, record("r-1", exit_tier=Tier.DEVICE, race=late), repeated):
        with RequestLogWriter(log) as writer:
            writer.append(each)

    (row,) = newest(log)
    assert (row.reason, row.race_winner, row.loser_tier) == (Reason.DEGRADED, Tier.DEVICE, Tier.CLOUD)
    assert (row.loser_label, row.loser_confidence) == ("negative", 0.75)


def test_a_record_and_what_is_added_to_it_may_come_in_one_commit(log: sa.Engine, record: RecordMaker) -> None:
    late = Race(loser_tier=Tier.CLOUD, loser_label="negative", loser_confidence=0.75)
    with RequestLogWriter(log) as writer:
        writer.append(record("r-1", exit_tier=Tier.DEVICE, race=Race()))
        writer.append(record("r-1", exit_tier=Tier.DEVICE, race=late))

    assert [row.loser_label for row in newest(log)] == ["negative"]
