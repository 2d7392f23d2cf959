"""Records, and a real SQLite file and a real PostgreSQL server to keep them in."""

import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from common.cli.root import main
from common.store.engine import writable_log
from common.store.writer import RequestLogWriter
from common.types import Answer, Hop, Pool, Reason, Record, Tier

RecordMaker = Callable[..., Record]
Run = Callable[..., tuple[int, str, str]]
HOPS = (
    Hop(tier=Tier.DEVICE, node="pi-1", start=0, end=2, queue_ms=0.5, compute_ms=2.0, confidence=0.6, predictions=(1,)),
    Hop(
        tier=Tier.EDGE,
        node="edge-1",
        start=2,
        end=4,
        queue_ms=1.0,
        compute_ms=3.0,
        received_bytes=9000,
        confidence=0.97,
        predictions=(1, 0),
        codec="int4",
        received_tokens=4,
        received_width=64,
    ),
)


@pytest.fixture
def record() -> RecordMaker:
    """Make a record; keywords replace fields of the answer or of the record."""

    def make(request_id: str = "r-1", **fields: object) -> Record:
        outer = {name: fields.pop(name) for name in ("created_at", "text", "true_label", "race") if name in fields}
        answer = {
            "request_id": request_id,
            "device_id": "pi-1",
            "model_revision": "abc",
            "reason": Reason.CONFIDENT,
            "label": "positive",
            "confidence": 0.97,
            "exit_layer": 4,
            "exit_tier": Tier.EDGE,
            "entry_tier": Tier.DEVICE,
            "total_ms": 12.5,
            "threshold": 0.9,
            "pool": Pool.MODERATE,
            "distances": (1.5, 0.25, 2.0),
            "tokens": 7,
            "payload_bytes": 9000,
            "cost": 4.2,
            "cost_model": "paper",
            "hops": HOPS,
            "attempts": 1,
            **fields,
        }
        return Record(answer=Answer(**answer), **{"created_at": 1_750_000_000.0, **outer})  # type: ignore[arg-type]

    return make


@pytest.fixture
def log_path(tmp_path: Path) -> Path:
    return tmp_path / "log.sqlite"


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """Start a PostgreSQL server that only this test run reaches, and give the URL of its folder of databases."""
    programs = _postgresql_programs()
    user = "postgres" if os.geteuid() == 0 else None  # it refuses to run as root
    folder = Path(tempfile.mkdtemp(prefix="dimee-pg-"))
    if user is not None:
        found = pwd.getpwnam(user)
        os.chown(folder, found.pw_uid, found.pw_gid)
    data = folder / "data"
    initdb = [programs / "initdb", "--pgdata", data, "--username", "dimee", "--auth", "trust", "--no-sync"]
    subprocess.run([*initdb, "--encoding", "UTF8"], user=user, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    options = ["-c", "listen_addresses=", "-c", "fsync=off", "-c", f"unix_socket_directories={folder}"]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([programs / "postgres", "-D", data, *options], user=user, cwd=folder, stderr=log)
        try:
            _wait_until_ready(folder, server)
            yield f"postgresql+psycopg://dimee@/{{}}?host={folder}"
        finally:
            server.send_signal(2)  # fast shutdown
            server.wait(60)
            shutil.rmtree(folder)


@pytest.fixture
def postgresql_url(postgresql: str) -> str:
    """Make a database of this test's own."""
    name = f"log_{secrets.token_hex(6)}"
    server = sa.create_engine(postgresql.format("postgres"), isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    server.dispose()
    return postgresql.format(name)


@pytest.fixture
def log_url(request: pytest.FixtureRequest) -> str:
    """Where the log is kept: SQLite's file, or PostgreSQL where ``pytest_generate_tests`` asks for it."""
    store = getattr(request, "param", "sqlite")
    return str(request.getfixturevalue("log_path" if store == "sqlite" else "postgresql_url"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run every test that uses a log over both stores, unless it is about SQLite's file itself."""
    asked = set(metafunc.definition._fixtureinfo.argnames)
    is_of_sqlite = asked & {"log_path", "old_log"} or metafunc.definition.get_closest_marker("sqlite")
    if "log_url" in metafunc.fixturenames and not is_of_sqlite:
        metafunc.parametrize("log_url", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def log(log_url: str) -> Iterator[sa.Engine]:
    """An empty log, open for writing."""
    with writable_log(log_url) as engine:
        yield engine


def _postgresql_programs() -> Path:
    found = shutil.which("initdb") or max(map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb")), default=None)
    try:
        import psycopg  # noqa: F401, PLC0415 - only looked for
    except ModuleNotFoundError:
        found = None
    if found is None:
        message = "needs PostgreSQL and psycopg (Debian: apt-get install postgresql; pip install 'dimee[postgresql]')"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    return Path(str(found)).parent


def _wait_until_ready(folder: Path, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if server.poll() is not None:
            pytest.fail(f"PostgreSQL ended: {(folder / 'log').read_text()}")
        if b"ready to accept connections" in (folder / "log").read_bytes():
            return
        time.sleep(0.05)
    pytest.fail("PostgreSQL is not ready after 20 s")


@pytest.fixture
def write(log: sa.Engine) -> Callable[[Iterable[Record]], None]:
    """Write records and wait until they are committed."""

    def write_all(records: Iterable[Record]) -> None:
        with RequestLogWriter(log, max_queued=1_000_000) as writer:
            for each in records:
                writer.append(each)

    return write_all


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], log_url: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run ``dimee log ...`` on the log; give the exit code, stdout and stderr."""
    monkeypatch.setenv("DIMEE_LOG__URL", log_url)

    def call(*arguments: str) -> tuple[int, str, str]:
        code = 0
        try:
            main(["log", *arguments])
        except SystemExit as exc:
            code = int(exc.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def three(write: Callable[[Iterable[Record]], None], record: RecordMaker) -> None:
    write(
        [
            record("near", exit_tier=Tier.DEVICE, true_label="positive", created_at=1_750_000_000.0),
            record("far", exit_tier=Tier.CLOUD, true_label="negative", created_at=1_750_000_100.0, total_ms=40.0),
            record("none", exit_tier=Tier.DEVICE, reason=Reason.FAILED, label=None, created_at=1_750_000_200.0),
        ]
    )
