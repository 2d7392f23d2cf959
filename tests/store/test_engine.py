"""Opening a log: what is missing, foreign, newer or older is told or mended, with the path."""

import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa

from common.errors import StoreError
from common.store.engine import readable_log, writable_log
from common.store.migrations import MIGRATIONS, upgrade
from common.store.queries import find, newest
from common.store.writer import RequestLogWriter
from tests.store.conftest import RecordMaker

RELEASED = tuple(sorted(Path(__file__).parent.glob("version_*.sql")))  # a log as each released schema made it


def schema_of(path: Path) -> list[str]:
    """Everything SQLite knows of the schema, white space apart."""
    with sqlite3.connect(path) as connection:
        rows = connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name").fetchall()
    connection.close()
    return ["".join(sql.split()) for (sql,) in rows]


@pytest.fixture(params=RELEASED, ids=lambda path: path.stem)
def old_log(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "old.sqlite"
    with sqlite3.connect(path) as connection:
        connection.executescript(request.param.read_text(encoding="utf-8"))
    connection.close()
    return path


@pytest.mark.sqlite
def test_a_new_log_has_strict_tables_and_keeps_a_write_ahead_log(log: sa.Engine) -> None:
    with log.connect() as connection:
        tables = connection.exec_driver_sql("PRAGMA table_list").mappings().all()
        pragmas = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        ]

    ours = [row for row in tables if not row["name"].startswith("sqlite_") and row["type"] == "table"]
    assert {row["name"]: row["strict"] for row in ours} == {
        "request_log": 1,
        "hop": 1,
        "schema_version": 1,
    }
    assert pragmas == ["wal", 1, 1, 5000]


def test_commits_reach_the_disk_where_that_is_asked_for(log_path: Path) -> None:
    with writable_log(str(log_path), synchronous="FULL") as engine, engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2


def test_a_log_of_every_released_schema_opens_with_all_it_held(old_log: Path, record: RecordMaker) -> None:
    with writable_log(f"sqlite:///{old_log}") as engine:
        with RequestLogWriter(engine) as writer:
            writer.append(record("new-1"))
        old = find(engine, "old-1")
        held = [request.request_id for request in newest(engine)]

    assert old is not None
    assert (old.text, old.is_truncated, [hop.predictions for hop in old.hops]) == ("a fine film", False, [(1,), (1, 0)])
    assert held == ["old-1", "new-1"]


@pytest.mark.usefixtures("log")
def test_an_upgraded_log_has_the_schema_of_a_new_one(old_log: Path, log_path: Path) -> None:
    with writable_log(str(old_log)):
        pass

    assert schema_of(old_log) == schema_of(log_path)


def test_every_released_schema_has_a_log_to_be_tested_with() -> None:
    assert len(RELEASED) == len(MIGRATIONS)


def test_a_later_version_is_one_function(log: sa.Engine) -> None:
    def add_column(connection: sa.Connection) -> None:
        connection.exec_driver_sql("ALTER TABLE hop ADD COLUMN host TEXT")

    latest = len(MIGRATIONS) + 1
    found = [upgrade(log, (*MIGRATIONS, add_column)) for _ in range(2)]

    assert found == [latest, latest + 1]
    assert "host" in {column["name"] for column in sa.inspect(log).get_columns("hop")}


def test_a_failing_migration_leaves_the_log_as_it_was(log: sa.Engine, log_path: Path) -> None:
    before = schema_of(log_path)

    def fail(connection: sa.Connection) -> None:
        connection.exec_driver_sql("DROP TABLE hop")
        raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"):
        upgrade(log, (*MIGRATIONS, fail))

    assert schema_of(log_path) == before
    assert upgrade(log) == len(MIGRATIONS) + 1


@pytest.mark.parametrize("opening", [readable_log, writable_log])
def test_a_newer_log_is_refused(opening: type, log_path: Path, log: sa.Engine) -> None:
    with log.begin() as connection:
        connection.exec_driver_sql("UPDATE schema_version SET version = 7")

    with pytest.raises(StoreError, match=r"log\.sqlite: the log has schema version 7.*upgrade dimee"):
        opening(str(log_path)).__enter__()


@pytest.mark.parametrize(
    ("opening", "url", "words"),
    [
        (writable_log, "sqlite:///{tmp}/none/log.sqlite", "there is no folder .*none; create it"),
        (readable_log, "{tmp}/none.sqlite", "none.sqlite: there is no such log"),
        (writable_log, "{tmp}/letter.txt", "letter.txt: file is not a database; name another file"),
        (readable_log, "{tmp}/letter.txt", "letter.txt: file is not a database; name another file"),
        (readable_log, "{tmp}/empty.sqlite", "empty.sqlite: holds no dimee log"),
        (readable_log, "{tmp}/foreign.sqlite", "foreign.sqlite: holds no dimee log"),
        (writable_log, "{tmp}/foreign.sqlite", "holds the table 'recipe' but no dimee log"),
        (writable_log, "{tmp}", "unable to open database file; .*must be writable"),
        (writable_log, "sqlite://", "the log needs a file"),
        (writable_log, "mysql://host/db", "sqlite or postgresql only"),
        (writable_log, "://secret", "is no database URL"),
        (writable_log, "postgresql+nosuch://u:secret@host/db", "knows no 'postgresql\\+nosuch'"),
    ],
)
def test_what_cannot_be_opened_is_named_with_the_remedy(opening: type, url: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("Dear reader, " * 100)
    (tmp_path / "empty.sqlite").touch()
    with sqlite3.connect(tmp_path / "foreign.sqlite") as connection:
        connection.execute("CREATE TABLE recipe (name TEXT)")
    connection.close()

    with pytest.raises(StoreError, match=words) as raised:
        opening(url.format(tmp=tmp_path)).__enter__()

    assert "secret" not in str(raised.value)


def test_a_foreign_database_is_left_untouched(tmp_path: Path) -> None:
    path = tmp_path / "foreign.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE recipe (name TEXT)")
    connection.close()
    before = path.read_bytes()

    with pytest.raises(StoreError):
        writable_log(str(path)).__enter__()

    assert path.read_bytes() == before


@pytest.mark.usefixtures("log")
def test_a_log_open_for_reading_cannot_be_written(log_path: Path) -> None:
    with (
        readable_log(str(log_path)) as reader,
        reader.begin() as connection,
        pytest.raises(sa.exc.OperationalError, match="readonly"),
    ):
        connection.exec_driver_sql("DELETE FROM request_log")
