"""The log as data: queries of one's own, the stream, ground truth that comes later, forgetting, Parquet."""

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import sqlalchemy as sa

from common.errors import ConfigError, StoreError
from common.store.calibration import calibration
from common.store.engine import readable_log, writable_log
from common.store.labels import label_requests
from common.store.queries import NO_FILTERS, Filters, find, newest
from common.store.retention import Retention, prune
from common.store.schema import hop, request_log
from common.store.select import select
from common.store.stream import Stream
from common.store.writer import RequestLogWriter
from common.types import Record, Tier
from tests.store.conftest import RecordMaker, Run

Write = Callable[[Iterable[Record]], None]
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"


def count(engine: sa.Engine, table: sa.Table) -> int:
    with engine.connect() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()


def test_a_query_gives_named_columns_and_says_when_it_is_cut(log: sa.Engine, write: Write, record: RecordMaker) -> None:
    write(record(f"r-{number}") for number in range(5))

    whole = select(log, "SELECT request_id, total_ms FROM request_log ORDER BY 1;", limit_s=5, max_rows=5)
    cut = select(log, "SELECT request_id FROM request_log ORDER BY 1", limit_s=5, max_rows=2)

    assert (whole.columns, whole.rows[0], whole.is_cut) == (("request_id", "total_ms"), ("r-0", 12.5), False)
    assert ([row[0] for row in cut.rows], cut.is_cut) == (["r-0", "r-1"], True)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM request_log",
        "UPDATE request_log SET label = 'x'",
        "DROP TABLE request_log",
        "INSERT INTO schema_version VALUES (9)",
        "SELECT 1; DROP TABLE hop",
        "COMMIT; DROP TABLE hop",
        "CREATE TABLE other (x INTEGER)",
        "ATTACH '{folder}/other.sqlite' AS other",
        "PRAGMA journal_mode = DELETE",
        "VACUUM INTO '{folder}/copy.sqlite'",
        "SELECT load_extension('{folder}/x')",
        "SELECT nothing FROM request_log",
        "SELECT FROM WHERE",
        "not sql",
        "",
        ";",
    ],
)
def test_what_does_not_only_read_is_refused(  # noqa: PLR0917 - six fixtures and cases
    statement: str, log: sa.Engine, log_url: str, write: Write, record: RecordMaker, tmp_path: Path
) -> None:
    write([record()])
    before = sorted(tmp_path.iterdir())

    with readable_log(log_url) as reader, pytest.raises(ConfigError):
        select(reader, statement.format(folder=tmp_path), limit_s=5, max_rows=10)

    assert (count(log, request_log), count(log, hop)) == (1, 2)
    assert [path for path in sorted(tmp_path.iterdir()) if path.suffix == ".sqlite"] == [
        path for path in before if path.suffix == ".sqlite"
    ]


def test_a_query_without_end_is_stopped_and_the_log_stays_usable(log: sa.Engine) -> None:
    with pytest.raises(StoreError, match=r"stopped after 0\.3 s"):
        select(log, ENDLESS, limit_s=0.3, max_rows=10)

    assert select(log, "SELECT 1", limit_s=5, max_rows=1).rows == [(1,)]


def test_the_stream_gives_each_request_once_whatever_the_page(
    log: sa.Engine, write: Write, record: RecordMaker
) -> None:
    write([record("old")])
    stream = Stream(log, NO_FILTERS, start=None)

    write(record(f"r-{number:04}") for number in range(2500))
    first = [request.request_id for request in stream.fresh()]
    write([record("late")])
    second = [request.request_id for request in stream.fresh()]

    assert sorted(first) == [f"r-{number:04}" for number in range(2500)]
    assert (second, list(stream.fresh())) == (["late"], [])


def test_the_stream_begins_where_it_is_told(log: sa.Engine, write: Write, record: RecordMaker) -> None:
    write([record("near", exit_tier=Tier.DEVICE), record("far", exit_tier=Tier.CLOUD)])

    stream = Stream(log, Filters(tier=Tier.CLOUD), start=0.0)

    assert [request.request_id for request in stream.fresh()] == ["far"]


def test_labels_are_written_all_or_none(log: sa.Engine, write: Write, record: RecordMaker) -> None:
    write([record("a"), record("b", label="negative")])

    with pytest.raises(StoreError, match="no request 'c'; nothing was labelled"):
        label_requests(log, {"a": "negative", "c": "negative"})
    with pytest.raises(ConfigError, match="'postive' was never answered"):
        label_requests(log, {"a": "positive", "b": "postive"})
    untouched = [request.true_label for request in newest(log)]
    changed = label_requests(log, {"a": "positive", "b": "positive"})
    again = label_requests(log, {"a": "positive"})

    assert untouched == [None, None]
    assert (changed, again) == (2, 0)


def test_calibration_is_the_weighted_gap_between_confidence_and_accuracy(
    log: sa.Engine, write: Write, record: RecordMaker
) -> None:
    sure = [record(f"s-{n}", confidence=0.95, true_label="positive" if n else "negative") for n in range(4)]
    unsure = [record(f"u-{n}", confidence=0.55, true_label="positive" if n else "negative") for n in range(2)]
    certain = [record("c", confidence=1.0, true_label="positive")]
    unknown = [record("x", confidence=0.6), record("y", label=None, true_label="positive")]
    write([*sure, *unsure, *certain, *unknown])

    (group,) = calibration(log)

    expected = (5 * abs(4 / 5 - (4 * 0.95 + 1.0) / 5) + 2 * abs(1 / 2 - 0.55)) / 7
    assert (group.labelled, group.accuracy) == (7, 5 / 7)
    assert group.calibration_error == pytest.approx(expected, abs=1e-9)
    assert [each.answered for each in group.bins] == [2, 5]


def test_pruning_goes_by_the_recorders_clock_and_takes_the_hops_along(
    log: sa.Engine, write: Write, record: RecordMaker
) -> None:
    write(record(f"r-{number}", created_at=1.0) for number in range(2500))
    kept_from = time.time()
    write([record("kept", created_at=1.0)])

    deleted = prune(log, kept_from)

    assert deleted == 2500
    assert [request.request_id for request in newest(log)] == ["kept"]
    assert count(log, hop) == 2


def test_retention_forgets_beside_a_running_writer(log: sa.Engine, record: RecordMaker) -> None:
    committed = threading.Event()
    with RequestLogWriter(log, lambda _: committed.set()) as writer:
        writer.append(record("old"))
        assert committed.wait(60)
        with Retention(log, keep_days=1e-9, interval_s=0.05):
            deadline = time.monotonic() + 60
            while find(log, "old") is not None and time.monotonic() < deadline:
                writer.append(record(f"r-{time.monotonic_ns()}"))
                time.sleep(0.01)

    assert find(log, "old") is None
    assert not writer.crashed


@pytest.mark.usefixtures("three")
def test_sql_prints_a_table_csv_or_json(run: Run) -> None:
    query = "SELECT exit_tier, count(*) AS n FROM request_log GROUP BY 1 ORDER BY 1"

    table, as_csv, as_json = run("sql", query), run("sql", query, "--csv"), run("sql", query, "--json")

    assert [done[0] for done in (table, as_csv, as_json)] == [0, 0, 0]
    assert "cloud" in table[1]
    assert as_csv[1] == "exit_tier,n\ncloud,1\ndevice,2\n"
    assert json.loads(as_json[1]) == [{"exit_tier": "cloud", "n": 1}, {"exit_tier": "device", "n": 2}]


@pytest.mark.usefixtures("three")
def test_tail_prints_lines_of_json(run: Run) -> None:
    code, out, _ = run("tail", "--since", "1h", "--no-follow", "--json")

    assert code == 0
    assert {json.loads(line)["request_id"] for line in out.splitlines()} == {"near", "far", "none"}


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize(
    "text",
    [
        "request_id,label\nfar,negative\nnone,positive\n",
        "far\tnegative\n\nnone\tpositive\n",
        '{"request_id": "far", "label": "negative"}\n{"request_id": "none", "label": "positive"}\n',
    ],
)
def test_a_file_of_labels_is_taken_in_each_format(run: Run, text: str, tmp_path: Path) -> None:
    file = tmp_path / "labels"
    file.write_text(text, encoding="utf-8")

    code, out, _ = run("label", "--file", str(file), "--new", "--json")

    assert (code, json.loads(out)) == (0, {"labelled": 2, "changed": 1})
    assert json.loads(run("show", "none", "--json")[1])["true_label"] == "positive"


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize(
    ("arguments", "text", "code", "said"),
    [
        (["label"], "", 2, "give REQUEST_ID and LABEL, or --file"),
        (["label", "far"], "", 2, "give REQUEST_ID and LABEL, or --file"),
        (["label", "nobody", "positive"], "", 1, "no request 'nobody'"),
        (["label", "--file", "FILE"], "far;positive\n", 2, "line 1: 'far;positive' is no request_id and label"),
        (["label", "--file", "FILE"], "far,positive\nfar,negative\n", 2, "line 2: 'far' has two labels"),
        (["label", "--file", "FILE"], "\n", 2, "holds no labels"),
        (["label", "--file", "FILE"], '{"request_id": 1}\n', 2, "line 1"),
        (["label", "--file", "/nowhere"], "", 2, "cannot be read"),
        (["sql", "DELETE FROM hop"], "", 2, "refused"),
        (["prune", "--older-than", "soon", "--yes"], "", 2, "'soon' is no time"),
        (["export", "--format", "parquet"], "", 2, "name a file with --out"),
    ],
)
def test_a_mistake_gets_a_line_and_a_status(  # noqa: PLR0917 - six fixtures and cases
    run: Run,
    tmp_path: Path,
    arguments: list[str],
    text: str,
    code: int,
    said: str,
) -> None:
    (tmp_path / "labels").write_text(text, encoding="utf-8")

    done = run(*(str(tmp_path / "labels") if each == "FILE" else each for each in arguments))

    assert done[0] == code
    assert said in done[2]


@pytest.mark.usefixtures("three")
def test_report_compares_with_the_time_before(run: Run) -> None:
    code, out, _ = run("report", "--since", "2025-06-15T15:07:30+00:00", "--json")

    shares = {share["tier"]: (share["share"], share["share_before"]) for share in json.loads(out)["shares"]}
    assert code == 0
    assert shares == {"device": (0.5, 1.0), "edge": (0.0, 0.0), "cloud": (0.5, 0.0)}
    assert run("report")[0] == 0


@pytest.mark.usefixtures("three")
def test_prune_says_how_many_went(run: Run) -> None:
    code, out, _ = run("prune", "--older-than", "0s", "--yes", "--json")

    assert (code, json.loads(out)) == (0, {"deleted": 3})


@pytest.mark.usefixtures("three")
def test_parquet_holds_typed_columns_and_hops(run: Run, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pip install 'dimee[parquet]'")
    path = tmp_path / "log.parquet"

    code, _, _ = run("export", "--format", "parquet", "--out", str(path))

    rows = parquet.read_table(path).to_pylist()
    assert code == 0
    assert [row["request_id"] for row in rows] == ["near", "far", "none"]
    assert [each["predictions"] for each in rows[0]["hops"]] == [[1], [1, 0]]
    assert rows[2]["label"] is None
    assert isinstance(rows[0]["total_ms"], float)


def test_a_log_of_version_1_gains_the_indexes(log_path: Path) -> None:
    version_1 = (Path(__file__).parent / "version_1.sql").read_text(encoding="utf-8")
    with sqlite3.connect(log_path) as database:
        database.executescript(version_1)

    with writable_log(str(log_path)):
        pass

    with sqlite3.connect(log_path) as database:
        names = {row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'index'")}
    assert {"request_log_recorded", "request_log_labelled"} <= names
