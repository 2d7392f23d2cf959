"""A device's outbox file: what was written is there after a kill, and trouble with the disk is said clearly."""

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import StoreError
from common.store.outbox import outbox_file
from common.store.promises import Accepted, Finished, Forgotten, Promised, Refused


def promised(number: int, **changes: object) -> Promised:
    fields = {"request_id": f"r{number:03}", "created_at": 1.0, "deadline": 100.0 - number, "text": "a fine film"}
    return Promised(**(fields | changes))  # type: ignore[arg-type]


def finished(number: int, record: bytes = b"record", input_id: str | None = None) -> Finished:
    return Finished(f"r{number:03}", input_id, 1.0, 100.0 - number, record)


def test_what_is_kept_is_found_again_in_order_of_deadline(tmp_path: Path) -> None:
    path = tmp_path / "outbox.sqlite"
    with outbox_file(path, max_remembered=10) as outbox:
        outbox.apply([Accepted(promised(number)) for number in range(4)])
        outbox.apply([finished(1, b"record 1"), finished(3, b"record 3")])
        outbox.sync()

    with outbox_file(path, max_remembered=10) as outbox:
        contents = outbox.load()

    assert [one.request_id for one in contents.unanswered] == ["r002", "r000"]
    assert [(one.request_id, one.record) for one in contents.unrecorded] == [
        ("r003", b"record 3"),
        ("r001", b"record 1"),
    ]
    assert contents.recorded == ()


def test_a_text_is_gone_from_its_row_once_it_is_answered(tmp_path: Path) -> None:
    with outbox_file(tmp_path / "outbox.sqlite", max_remembered=10) as outbox:
        outbox.apply([Accepted(promised(1))])
        outbox.apply([finished(1)])

        assert outbox._connection.exec_driver_sql("SELECT text FROM request").scalar() is None


def test_only_inputs_with_an_id_are_remembered_and_no_more_than_the_bound(tmp_path: Path) -> None:
    with outbox_file(tmp_path / "outbox.sqlite", max_remembered=10) as outbox:
        for number in range(60):
            input_id = f"i{number}" if number % 2 else None
            outbox.apply([Accepted(promised(number, input_id=input_id)), finished(number, input_id=input_id)])
            outbox.apply([Forgotten((f"r{number:03}",))])
        contents = outbox.load()

    assert contents.unrecorded == ()
    assert len(contents.recorded) == 10
    assert contents.recorded[0].input_id == "i59"


def test_a_refused_record_is_set_aside(tmp_path: Path) -> None:
    with outbox_file(tmp_path / "outbox.sqlite", max_remembered=10) as outbox:
        outbox.apply([Accepted(promised(1)), finished(1), Refused("r001", "no such column")])

        assert outbox.load().unrecorded == ()
        assert outbox._connection.exec_driver_sql("SELECT refusal FROM request").scalar() == "no such column"


@pytest.mark.parametrize("damage", ["no database", "torn"])
def test_a_damaged_file_is_kept_aside_and_a_fresh_one_begun(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "outbox.sqlite"
    with outbox_file(path, max_remembered=10) as outbox:
        outbox.apply([Accepted(promised(number)) for number in range(200)])
    whole = path.read_bytes()
    broken = b"this is no database, whatever its name says" * 50 if damage == "no database" else whole[:8192]
    path.write_bytes(broken)

    with caplog.at_level(logging.ERROR), outbox_file(path, max_remembered=10) as outbox:
        assert outbox.load().unanswered == ()

    (aside,) = tmp_path.glob("outbox.sqlite.damaged-*")
    assert aside.read_bytes() == broken
    assert "is damaged" in caplog.text
    assert str(aside) in caplog.text


def test_a_second_process_on_one_outbox_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "outbox.sqlite"
    with outbox_file(path, max_remembered=10):
        code = (
            "from common.store.outbox import *\nfrom pathlib import Path\n"
            f"with outbox_file(Path({str(path)!r}), max_remembered=10): pass"
        )
        second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)

    assert second.returncode != 0
    assert "StoreError" in second.stderr
    assert "another process holds it" in second.stderr


def test_what_was_written_survives_a_kill_without_a_sync(tmp_path: Path) -> None:
    path = tmp_path / "outbox.sqlite"
    code = (
        "from common.store.outbox import *\nfrom common.store.promises import *\n"
        "from pathlib import Path\nimport time\n"
        f"with outbox_file(Path({str(path)!r}), max_remembered=10) as outbox:\n"
        " for n in range(50):\n"
        "  outbox.apply([Accepted(Promised(request_id=str(n), created_at=1, deadline=2, text='a'))])\n"
        " print('written', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"written\n"
        os.kill(process.pid, signal.SIGKILL)

    with outbox_file(path, max_remembered=10) as outbox:
        assert len(outbox.load().unanswered) == 50


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no folder"), outbox_file(tmp_path / "none" / "outbox", max_remembered=1):
        pass


def test_a_newer_outbox_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "outbox.sqlite"
    with outbox_file(path, max_remembered=10) as outbox:
        outbox._connection.exec_driver_sql("PRAGMA user_version = 99")

    with pytest.raises(StoreError, match="upgrade dimee"), outbox_file(path, max_remembered=10):
        pass
    assert list(tmp_path.glob("*.damaged-*")) == []
