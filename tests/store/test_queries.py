"""What was written is read back, filtered, ordered and summed as a plain reckoning would."""

import csv
import io
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.dialects import postgresql

from common.store.engine import readable_log, writable_log
from common.store.export import ExportFormat, write_text
from common.store.moments import moment
from common.store.queries import Filters, LoggedRequest, find, newest, oldest_first
from common.store.rows import hop_rows, request_row
from common.store.schema import metadata, request_log
from common.store.statistics import stats
from common.store.writer import RequestLogWriter, insert_missing
from common.types import POOLS, TIERS, Answer, Hop, Reason, Record, Tier
from tests.store.conftest import RecordMaker

Write = Callable[[Iterable[Record]], None]
LIMIT_S = 60.0

names = st.from_regex(r"[^+#/\x00]{1,64}", fullmatch=True).filter(
    lambda name: name.encode("utf-8", "ignore").decode() == name
)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
amounts = st.floats(0, 1e12, allow_nan=False)
counts = st.integers(0, 2**63 - 1)
fractions = st.floats(0, 1)
hops = st.builds(
    lambda span, **fields: Hop(start=min(span), end=max(span), **fields),
    span=st.tuples(counts, counts),
    tier=st.sampled_from(TIERS),
    node=names,
    queue_ms=amounts,
    compute_ms=amounts,
    received_bytes=counts,
    confidence=fractions,
    predictions=st.lists(counts, max_size=3).map(tuple),
)
answers = st.builds(
    Answer,
    request_id=texts.filter(bool),
    device_id=names,
    model_revision=texts,
    reason=st.sampled_from(Reason),
    label=st.none() | texts,
    confidence=fractions,
    exit_layer=counts,
    exit_tier=st.sampled_from(TIERS),
    entry_tier=st.sampled_from(TIERS),
    total_ms=amounts,
    threshold=st.none() | fractions,
    pool=st.none() | st.sampled_from(POOLS),
    distances=st.just(()) | st.tuples(amounts, amounts, amounts),
    detail=texts,
    is_truncated=st.booleans(),
    tokens=counts,
    payload_bytes=counts,
    cost=amounts,
    cost_model=texts,
    hops=st.lists(hops, max_size=3).map(tuple),
    attempts=counts,
)
records = st.builds(
    Record, answer=answers, created_at=st.floats(0, 4e9), text=st.none() | texts, true_label=st.none() | texts
)


@pytest.fixture(scope="module")
def shared_log(tmp_path_factory: pytest.TempPathFactory) -> Iterable[sa.Engine]:
    with writable_log(str(tmp_path_factory.mktemp("log") / "log.sqlite")) as engine:
        yield engine


@given(kept=records)
@settings(max_examples=100)
def test_a_record_survives_the_round_trip(shared_log: sa.Engine, kept: Record) -> None:
    with shared_log.begin() as connection:
        connection.execute(sa.delete(request_log))
        insert_missing(connection, [(request_row(kept, 5.0), hop_rows(kept.answer))])

    found = find(shared_log, kept.answer.request_id)

    assert found is not None
    same = ("request_id", "device_id", "model_revision", "reason", "label", "confidence", "exit_layer", "exit_tier",
            "entry_tier", "total_ms", "threshold", "pool", "detail", "is_truncated", "tokens", "payload_bytes", "cost",
            "cost_model", "attempts", "queue_ms", "compute_ms", "network_ms")  # fmt: skip
    assert {name: getattr(found, name) for name in same} == {name: getattr(kept.answer, name) for name in same}
    assert (found.created_at, found.text, found.true_label) == (kept.created_at, kept.text, kept.true_label)
    distances = (found.distance_easy, found.distance_moderate, found.distance_hard)
    assert distances == (kept.answer.distances or (None, None, None))
    assert [
        Hop(start=hop.start_layer, end=hop.end_layer, **{
            name: getattr(hop, name)
            for name in ("tier", "node", "queue_ms", "compute_ms", "received_bytes", "confidence", "predictions")
        }, codec=hop.codec or "", received_tokens=hop.received_tokens or 0, received_width=hop.received_width or 0)
        for hop in found.hops
    ] == list(kept.answer.hops)  # fmt: skip


@pytest.fixture
def mixed(record: RecordMaker, write: Write) -> list[Record]:
    """500 requests of every kind, in the log and in memory."""
    random = np.random.default_rng(7)
    kept = [
        record(
            f"r-{number:03}",
            device_id=f"pi-{random.integers(3)}",
            exit_tier=TIERS[random.integers(3)],
            reason=list(Reason)[random.integers(4)],
            label=("negative", "positive", None)[random.integers(3)],
            true_label=("negative", "positive", None)[random.integers(3)],
            total_ms=float(random.integers(1, 60)),
            payload_bytes=int(random.integers(10_000)),
            cost=float(random.uniform(0, 10)),
            created_at=1000.0 + float(random.integers(300)),
        )
        for number in range(500)
    ]
    write(kept)
    return kept


FILTERS = [
    Filters(),
    Filters(tier=Tier.CLOUD),
    Filters(device="pi-1"),
    Filters(label="positive"),
    Filters(reason=Reason.DEGRADED),
    Filters(since=1100.0, until=1200.0),
    Filters(tier=Tier.EDGE, device="pi-2", label="negative", reason=Reason.FINAL, since=1010.0),
    Filters(device="nobody"),
]


def passes(record: Record, filters: Filters) -> bool:
    answer = record.answer
    wanted = (
        (filters.tier, answer.exit_tier),
        (filters.device, answer.device_id),
        (filters.label, answer.label),
        (filters.reason, answer.reason),
    )
    since, until = filters.since or 0.0, filters.until or 1e12
    return all(want in (None, value) for want, value in wanted) and since <= record.created_at < until


@pytest.mark.parametrize("filters", FILTERS)
def test_lists_hold_what_passes_newest_first(mixed: list[Record], log: sa.Engine, filters: Filters) -> None:
    expected = sorted(
        (each for each in mixed if passes(each, filters)), key=lambda each: (-each.created_at, each.answer.request_id)
    )

    listed = newest(log, filters, limit=40)

    assert [request.request_id for request in listed] == [each.answer.request_id for each in expected[:40]]


@pytest.mark.parametrize("filters", FILTERS)
def test_statistics_equal_a_plain_reckoning(mixed: list[Record], log: sa.Engine, filters: Filters) -> None:
    passing = [each for each in mixed if passes(each, filters)]

    reckoned = stats(log, filters)

    groups = {tier: [each for each in passing if each.answer.exit_tier == tier] for tier in TIERS}
    assert reckoned.requests == len(passing)
    assert list(reckoned.tiers) == [tier for tier in TIERS if groups[tier]]
    assert reckoned.first_created_at == min((each.created_at for each in passing), default=None)
    for figures, group in [(reckoned.overall, passing), *((reckoned.tiers[t], groups[t]) for t in reckoned.tiers)]:
        answers_ = [each.answer for each in group]
        labelled = [each for each in group if each.true_label is not None]
        correct = [each for each in labelled if each.true_label == each.answer.label]
        assert (figures.answered, figures.labelled) == (len(group), len(labelled))
        assert figures.share == pytest.approx(len(group) / max(1, len(passing)))
        assert figures.accuracy == (pytest.approx(len(correct) / len(labelled)) if labelled else None)
        assert figures.reasons == Counter(answer.reason for answer in answers_)
        if group:
            ranks = np.percentile([answer.total_ms for answer in answers_], [50, 95], method="inverted_cdf")
            assert (figures.latency_ms_p50, figures.latency_ms_p95) == tuple(ranks)
            assert figures.payload_bytes_per_request == pytest.approx(np.mean([a.payload_bytes for a in answers_]))
            assert figures.cost_per_request == pytest.approx(np.mean([answer.cost for answer in answers_]))


@pytest.mark.usefixtures("mixed")
@pytest.mark.sqlite
def test_statistics_touch_an_index_only(log: sa.Engine) -> None:
    statements: list[tuple[str, object]] = []

    @sa.event.listens_for(log, "before_cursor_execute")
    def _keep(_c: object, _cursor: object, statement: str, parameters: object, *_: object) -> None:
        statements.append((statement, parameters))

    stats(log, Filters(device="pi-1", label="positive", reason=Reason.FINAL, since=1010.0))

    with log.connect() as connection:
        steps = [
            row[3]
            for statement, parameters in list(statements)
            if statement.startswith("SELECT")
            for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)  # type: ignore[arg-type]
        ]
    tables = [step for step in steps if "request_log" in step]
    assert tables
    assert all("COVERING INDEX request_log_" in step for step in tables), steps
    assert not [step for step in steps if "TEMP B-TREE" in step]


def test_exports_hold_every_request_oldest_first(mixed: list[Record], log: sa.Engine) -> None:
    rows, lines = io.StringIO(), io.StringIO()

    written = write_text(oldest_first(log), rows, ExportFormat.CSV)
    write_text(oldest_first(log), lines, ExportFormat.JSONL)

    expected = [each.answer.request_id for each in sorted(mixed, key=lambda e: (e.created_at, e.answer.request_id))]
    parsed = [msgspec.json.decode(line) for line in lines.getvalue().splitlines()]
    assert written == 500
    assert [row["request_id"] for row in csv.DictReader(io.StringIO(rows.getvalue()))] == expected
    assert [line["request_id"] for line in parsed] == expected
    assert [hop["position"] for hop in parsed[0]["hops"]] == [0, 1]
    assert set(LoggedRequest.__struct_fields__) == {column.name for column in request_log.columns}


def test_a_live_log_is_read_while_it_is_written(log: sa.Engine, log_path: Path, record: RecordMaker) -> None:
    first, seen = threading.Event(), []

    with RequestLogWriter(log, lambda _: first.set(), max_batch=50, max_queued=5000) as writer:
        writer.append(record("r-0"))
        assert first.wait(LIMIT_S)
        with readable_log(str(log_path)) as reader:
            for number in range(1, 3000):
                writer.append(record(f"r-{number}"))
                if number % 300 == 0:
                    seen.append(stats(reader).requests)
                    assert all(len(request.hops) == 2 for request in oldest_first(reader))

    assert seen == sorted(seen)
    assert stats(log).requests == 3000


def test_the_schema_speaks_postgresql_too() -> None:
    dialect = postgresql.dialect()
    made = "".join(str(sa.schema.CreateTable(table).compile(dialect=dialect)) for table in metadata.sorted_tables)

    assert "created_at DOUBLE PRECISION NOT NULL" in made
    assert "payload_bytes BIGINT NOT NULL" in made
    assert "is_truncated BOOLEAN NOT NULL" in made
    assert "STRICT" not in made


@pytest.mark.parametrize(
    ("written", "expected"),
    [("2h", 92_800.0), ("1.5m", 99_910.0), ("7d", -504_800.0), ("1970-01-01T00:01:00+00:00", 60.0)],
)
def test_moments_are_ages_or_iso_times(written: str, expected: float) -> None:
    assert moment(written, now=100_000.0) == expected
