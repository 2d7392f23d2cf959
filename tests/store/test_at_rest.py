"""What lies on disk: encrypted where there is a key, and gone, to the last byte, where it was to be forgotten."""

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

pytest.importorskip("cryptography", reason="encryption needs cryptography: pip install 'dimee[security]'")

from common.certificates.at_rest import MARK, KeyVault, make_key
from common.config.settings import DeviceLog
from common.config.settings import Outbox as OutboxSettings
from common.errors import ConfigError, StoreError
from common.service.trust import open_vault
from common.store.promises import Promised
from common.types import Record
from common.wire import codec
from common.wire.messages import LogRecord
from device_agent.outbox import Outbox, open_outbox
from edge_broker.recorder import Receipts, Recorder
from tests.store.conftest import RecordMaker, Run

Write = Callable[[Iterable[Record]], None]
SECRET = "nobody shall read this sentence"


@pytest.fixture
def key(tmp_path: Path) -> Path:
    make_key(tmp_path / "vault.key")
    return tmp_path / "vault.key"


def bytes_of(path: Path) -> bytes:
    return b"".join(each.read_bytes() for each in path.parent.glob(f"{path.name}*"))


def promised(request_id: str = "r1") -> Promised:
    return Promised(request_id=request_id, created_at=1.0, deadline=2.0, text=SECRET, pair=SECRET, true_label=SECRET)


@contextmanager
def outbox(path: Path, key: Path | None) -> Iterator[Outbox]:
    """Open a device's outbox, as the settings would."""
    settings = OutboxSettings(path=str(path), key_file=None if key is None else str(key))
    with ExitStack() as stack:
        yield open_outbox(settings, on_crash=lambda: None, stack=stack)


def test_an_outbox_with_a_key_holds_no_text_and_gives_all_of_it_back(tmp_path: Path, key: Path) -> None:
    path = tmp_path / "outbox.sqlite"
    with outbox(path, key) as opened:
        opened.accept(promised())
        opened.finish(promised("r2"), SECRET.encode(), lambda: None)
        written = bytes_of(path)

    with outbox(path, key) as opened:
        contents = opened.contents

    assert len(written) > 2_000_000  # frames and all
    assert SECRET.encode() not in written + bytes_of(path)
    assert contents.unanswered == (promised(),)
    assert [each.record for each in contents.unrecorded] == [SECRET.encode()]


def test_without_a_key_the_search_finds_the_text(tmp_path: Path) -> None:
    """The control of the search above."""
    path = tmp_path / "outbox.sqlite"
    with outbox(path, None) as opened:
        opened.accept(promised())
        assert SECRET.encode() in bytes_of(path)


def test_what_was_written_before_there_was_a_key_is_still_read(tmp_path: Path, key: Path) -> None:
    path = tmp_path / "outbox.sqlite"
    with outbox(path, None) as opened:
        opened.accept(promised())

    with outbox(path, key) as opened:
        assert opened.contents.unanswered == (promised(),)


def test_another_key_another_row_and_an_altered_byte_open_nothing(tmp_path: Path, key: Path) -> None:
    vault = KeyVault.read("log.key_file", str(key))
    make_key(tmp_path / "other.key")
    sealed = vault.seal(b"content", "r1")

    for opener, content, bound in (
        (KeyVault.read("log.key_file", str(tmp_path / "other.key")), sealed, "r1"),
        (vault, sealed, "r2"),
        (vault, sealed[:-1] + bytes([sealed[-1] ^ 1]), "r1"),
    ):
        with pytest.raises(StoreError, match="does not open"):
            opener.open(content, bound)
    assert vault.open(sealed, "r1") == b"content"
    assert vault.seal(b"content", "r1") != sealed


class _Kept:
    def __init__(self) -> None:
        self.records: list[Record] = []

    def append(self, record: Record) -> None:
        self.records.append(record)


def test_the_log_holds_a_sealed_text_that_show_opens_with_the_key(
    record: RecordMaker, write: Write, run: Run, key: Path, log_path: Path
) -> None:
    kept = _Kept()
    recorder = Recorder(kept, Receipts(None, None, "edge-1"), None, open_vault("log.key_file", str(key)))  # type: ignore[arg-type]
    recorder._take(LogRecord(record=record("r1", text=SECRET)), b"", "log")
    write(kept.records)

    shown, opened = run("show", "r1", "--json"), run("show", "r1", "--json", "--key", str(key))

    assert SECRET.encode() not in bytes_of(log_path)
    assert MARK in shown[1]
    assert SECRET in opened[1]


def test_texts_are_not_logged_unless_somebody_says_so(record: RecordMaker) -> None:
    assert DeviceLog().keep_text is False
    assert b"sentence" not in codec.encode(LogRecord(record=record("r1")))


def test_a_systemd_credential_is_a_key(tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="LoadCredential"):
        open_vault("log.key_file", "credential:vault.key")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))

    assert (
        open_vault("log.key_file", "credential:vault.key").open(
            open_vault("log.key_file", str(key)).seal(b"x", "r1"), "r1"
        )
        == b"x"
    )


@pytest.mark.parametrize("content", [b"", b"c2hvcnQ=", b"no base64 !"])
def test_what_is_no_key_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.key").write_bytes(content)

    with pytest.raises(ConfigError, match=r"log\.key_file"):
        open_vault("log.key_file", str(tmp_path / "bad.key"))


def test_a_key_is_never_overwritten(key: Path) -> None:
    with pytest.raises(ConfigError, match="never overwritten"):
        make_key(key)

    assert key.stat().st_mode & 0o077 == 0


@pytest.mark.sqlite
def test_forgetting_a_device_leaves_nothing_of_it_in_the_file(
    record: RecordMaker, write: Write, run: Run, log_path: Path
) -> None:
    for name, device in (("gone", "pi-1"), ("kept", "pi-10")):
        write(record(f"{name}-{number:04}", device_id=device) for number in range(200))
    assert b"gone-0001" in bytes_of(log_path)

    code, out, _ = run("forget", "--device", "pi-1", "--yes", "--json")

    content = bytes_of(log_path)
    assert code == 0
    assert '"deleted": 200' in out
    assert '"found": 0' in out
    assert b"gone-" not in content
    assert b"kept-0000" in content
    with closing(sqlite3.connect(log_path)) as database:
        assert database.execute("SELECT count(*), count(DISTINCT device_id) FROM request_log").fetchone() == (200, 1)
        assert database.execute("SELECT count(*) FROM hop WHERE request_id LIKE 'gone-%'").fetchone() == (0,)


@pytest.mark.sqlite
def test_forgetting_what_is_old_spares_the_rest(record: RecordMaker, write: Write, run: Run, log_path: Path) -> None:
    write([record("young-1"), record("old-1")])
    with closing(sqlite3.connect(log_path)) as database, database:
        database.execute("UPDATE request_log SET recorded_at = 1.0 WHERE request_id = 'old-1'")

    code, out, _ = run("forget", "--before", "2020-01-01T00:00:00+00:00", "--yes", "--json")

    assert (code, '"deleted": 1' in out) == (0, True)
    assert b"old-1" not in bytes_of(log_path)
    assert b"young-1" in bytes_of(log_path)


@pytest.mark.sqlite
def test_forgetting_needs_to_know_what(run: Run) -> None:
    code, _, said = run("forget", "--yes")

    assert code == 2
    assert "--device or --before" in said
