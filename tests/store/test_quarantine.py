"""What broke something once is kept, bounded, and known again; the file survives deaths, damage and people."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from common.errors import StoreError
from common.store.quarantine import Name, Quarantine
from common.store.quarantined import read_quarantine, release

ONE = Name("pi-1", "r-1")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.sqlite.quarantine"


def test_bytes_are_kept_once_with_their_reason_and_counted(path: Path) -> None:
    with Quarantine(path, most=10) as quarantine:
        for _ in range(3):
            quarantine.put_bytes("edge/request", b"\xc1 nonsense", "no msgpack")

        (poison,) = read_quarantine(path)

    assert (poison.topic, poison.reason, poison.num_bytes, poison.body) == (
        "edge/request",
        "no msgpack",
        10,
        b"\xc1 nonsense",
    )
    assert (poison.times, quarantine.counters["quarantined"]) == (3, 3)


def test_each_kind_is_bounded_apart_and_a_long_body_is_cut(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.store.quarantine._MAX_PER_SECOND", 10**6)
    with Quarantine(path, most=5) as quarantine:
        for _ in range(2):
            quarantine.strike(ONE, "edge/request", b"body", "it failed")
        for number in range(20):
            quarantine.put_bytes("t", bytes([number]) * 100_000, "no msgpack")

        found = read_quarantine(path)

    assert [poison.request_id for poison in found if poison.request_id] == ["r-1"]
    assert [poison.body[0] for poison in found if not poison.request_id] == [19, 18, 17, 16, 15]
    assert max(len(poison.body) for poison in found) == 65_536


def test_strangers_cannot_make_it_write_all_the_time(path: Path) -> None:
    with Quarantine(path, most=1000) as quarantine:
        for number in range(500):
            quarantine.put_bytes("t", str(number).encode(), "no msgpack")

        assert quarantine.counters["quarantined"] == 500
        assert len(read_quarantine(path)) <= 200


@pytest.mark.parametrize("is_restarted", [False, True])
def test_a_request_that_failed_twice_is_held_until_it_is_released(path: Path, is_restarted: bool) -> None:
    with Quarantine(path, most=10) as quarantine:
        quarantine.strike(ONE, "edge/request", b"body", "it failed")
        assert not quarantine.holds(ONE)
        if not is_restarted:
            quarantine.strike(ONE, "edge/request", b"body", "it failed again")
            assert quarantine.holds(ONE)
    with Quarantine(path, most=10) as again:
        if is_restarted:
            again.strike(ONE, "edge/request", b"body", "it failed again")
        assert again.holds(ONE)
        assert not again.holds(Name("pi-2", "r-1"))
        (poison,) = read_quarantine(path)

        assert release(path, poison.id) == 1
        assert not again.holds(ONE)


def test_a_request_with_which_the_process_died_twice_is_held(path: Path) -> None:
    code = (
        "from common.store.quarantine import *\nimport time\n"
        f"with Quarantine(Path({str(path)!r}), most=10) as q, q.in_hand([Name('pi-1', 'r-1')]):\n"
        " print('begun', flush=True); time.sleep(60)"
    )
    for _ in range(2):
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"begun\n"
            os.kill(process.pid, signal.SIGKILL)

    with Quarantine(path, most=10) as quarantine:
        assert quarantine.holds(ONE)
    assert read_quarantine(path)[0].reason == "the process died while it computed this"
    with Quarantine(path, most=10) as quarantine, quarantine.in_hand([Name("pi-1", "r-2")]):
        pass
    with Quarantine(path, most=10) as quarantine:
        assert quarantine._strikes == {}


def test_without_a_file_it_lives_in_memory() -> None:
    quarantine = Quarantine(None, most=10)
    for _ in range(2):
        quarantine.strike(ONE, "t", b"", "it failed")

    with quarantine.in_hand([ONE]):
        assert quarantine.holds(ONE)


def test_two_threads_may_use_it(path: Path) -> None:
    with Quarantine(path, most=10) as quarantine:
        threads = [
            threading.Thread(target=lambda: [quarantine.put_bytes("t", b"x", "no msgpack") for _ in range(50)])
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert quarantine.counters == {"quarantined": 100}


def test_a_damaged_file_is_kept_aside_and_a_missing_folder_is_named(path: Path, tmp_path: Path) -> None:
    path.write_bytes(b"this is no database, whatever its name says" * 50)

    with Quarantine(path, most=10) as quarantine:
        quarantine.put_bytes("t", b"x", "no msgpack")
    assert len(list(tmp_path.glob("*.damaged-*"))) == 1
    with pytest.raises(StoreError, match=r"another worker\.quarantine_file"):
        Quarantine(tmp_path / "none" / "q", most=1).__enter__()
    with pytest.raises(StoreError, match="there is no such quarantine"):
        read_quarantine(tmp_path / "none")


def test_trouble_with_the_disk_stops_nobody(path: Path) -> None:
    with Quarantine(path, most=10) as quarantine:
        with sqlite3.connect(path) as database:
            database.execute("DROP TABLE poison")
        quarantine.put_bytes("t", b"x", "no msgpack")
        for _ in range(2):
            quarantine.strike(ONE, "t", b"", "it failed")

        assert quarantine.counters["quarantine_failures"] >= 2
