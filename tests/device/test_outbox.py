"""What a device has promised outlives its process, a full disk and a damaged file."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from common.errors import InputError, OverloadedError, StoreError
from common.store.frames import Frames
from common.store.outbox import OutboxFile, outbox_file
from common.store.promises import Accepted, Promised
from common.types import Reason, Tier
from device_agent.disk_outbox import DiskOutbox

LIMIT_S = 60.0


def promised(request_id: str, **changes: Any) -> Promised:
    fields = {"request_id": request_id, "created_at": 1.0, "deadline": 2.0, "text": "a fine film"}
    return Promised(**(fields | changes))


@pytest.fixture
def outbox(tmp_path: Path) -> Any:
    with DiskOutbox(tmp_path / "outbox.sqlite", sync="accepted", max_remembered=10, on_crash=pytest.fail) as opened:
        yield opened


def test_an_answer_waits_until_its_request_is_on_disk(outbox: DiskOutbox, monkeypatch: Any) -> None:
    may_sync, is_released = threading.Event(), threading.Event()
    sync = Frames.sync
    monkeypatch.setattr(Frames, "sync", lambda frames: (may_sync.wait(LIMIT_S), sync(frames)))

    outbox.accept(promised("a"))
    outbox.finish(promised("a"), b"record", is_released.set)
    was_held = not is_released.is_set()
    may_sync.set()

    assert was_held
    assert is_released.wait(LIMIT_S)


def test_while_the_disk_is_full_new_requests_are_refused_and_accepted_ones_are_answered(
    outbox: DiskOutbox, monkeypatch: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object, **__: object) -> None:
        raise StoreError("outbox.sqlite: database or disk is full; free some space on the disk")

    released, apply, append = [threading.Event() for _ in range(2)], OutboxFile.apply, Frames.append
    outbox.accept(promised("a"))
    monkeypatch.setattr(OutboxFile, "apply", full)
    monkeypatch.setattr(Frames, "append", full)
    outbox.finish(promised("a"), b"record", released[0].set)
    with caplog.at_level(logging.WARNING), pytest.raises(OverloadedError, match="free some space"):
        outbox.accept(promised("b"))
    assert released[0].wait(LIMIT_S)
    assert caplog.text.count("new requests are refused") <= 1

    monkeypatch.setattr(OutboxFile, "apply", apply)
    monkeypatch.setattr(Frames, "append", append)
    _accept_soon(outbox, promised("c"))
    outbox.finish(promised("c"), b"later", released[1].set)
    assert released[1].wait(LIMIT_S)
    outbox.__exit__(None, None, None)
    with outbox_file(tmp_path / "outbox.sqlite", max_remembered=10) as file:
        assert Counter(one.record for one in file.load().unrecorded) == Counter([b"record", b"later"])


def _accept_soon(outbox: DiskOutbox, one: Promised) -> None:
    pause = threading.Event()
    for _ in range(100):
        try:
            outbox.accept(one)
        except OverloadedError:
            pause.wait(0.1)
        else:
            return
    pytest.fail("the outbox did not recover")


def test_records_of_a_former_process_reach_the_log_once(site: Any, tmp_path: Path) -> None:
    path = tmp_path / "outbox.sqlite"
    first = site.start_device(policy="device-only", outbox=path, drain_s=0.1)
    answers = [first.classify("a fine film") for _ in range(3)]
    first.__exit__(None, None, None)

    site.start_recorder()
    second = site.start_device(policy="device-only", outbox=path)

    assert second.wait_recorded(LIMIT_S) == 0
    assert [record.answer.request_id for record in site.records] == [answer.request_id for answer in answers]
    second.__exit__(None, None, None)
    with outbox_file(path, max_remembered=1) as file:
        assert file.load().unrecorded == ()


@pytest.mark.parametrize(
    ("age_s", "reason"), [(0.0, Reason.CONFIDENT), (3600.0, Reason.DEGRADED), (-3600.0, Reason.DEGRADED)]
)
def test_an_unanswered_request_of_a_former_process_is_sent_while_worth_it_and_else_answered_here(
    site: Any, tmp_path: Path, age_s: float, reason: Reason
) -> None:
    path, at = tmp_path / "outbox.sqlite", time.time() - age_s
    with outbox_file(path, max_remembered=1) as file:
        file.apply([Accepted(promised("left", input_id="mine", created_at=at, deadline=at + 5))])
    site.start_recorder()
    site.start_tier(Tier.EDGE, thresholds={2: 0.0})

    agent = site.start_device(outbox=path)
    (recovered,) = agent.recovered

    answer = recovered.future.result(LIMIT_S)
    assert (answer.request_id, answer.reason, recovered.input_id) == ("left", reason, "mine")
    assert answer.detail == ("" if reason is Reason.CONFIDENT else "its budget ran out while the device was down")
    assert agent.wait_recorded(LIMIT_S) == 0
    assert [record.answer.request_id for record in site.records] == ["left"]


def test_a_second_agent_on_one_outbox_does_not_start(site: Any, tmp_path: Path) -> None:
    with ExitStack() as stack:
        stack.enter_context(outbox_file(tmp_path / "outbox.sqlite", max_remembered=1))

        with pytest.raises(StoreError, match="another process holds it"):
            site.start_device(outbox=tmp_path / "outbox.sqlite")


def test_at_the_cap_the_oldest_record_is_dropped_where_the_policy_says_so(site: Any) -> None:
    agent = site.start_device(policy="device-only", max_unrecorded=2, when_full="drop", drain_s=0.1)

    answers = [agent.classify("a fine film") for _ in range(5)]
    site.start_recorder()

    assert agent.counters["dropped_records"] == 3
    assert agent.wait_recorded(LIMIT_S) == 0
    assert [record.answer.request_id for record in site.records] == [answer.request_id for answer in answers[3:]]


def test_a_text_that_cannot_be_classified_leaves_nothing_behind(site: Any, tmp_path: Path) -> None:
    agent = site.start_device(policy="device-only", outbox=tmp_path / "outbox.sqlite")

    with pytest.raises(InputError):
        agent.submit("  ", input_id="empty")

    agent.__exit__(None, None, None)
    with outbox_file(tmp_path / "outbox.sqlite", max_remembered=1) as file:
        assert file.load().unanswered == ()


def test_an_outbox_that_is_damaged_while_it_is_used_is_kept_aside_and_work_goes_on(
    tmp_path: Path, monkeypatch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    path, released = tmp_path / "outbox.sqlite", threading.Event()
    monkeypatch.setattr("common.store.outbox._CHECKPOINT_PAGES", 1)  # what is kept goes into the file at once
    with DiskOutbox(path, sync="written", max_remembered=10, on_crash=pytest.fail) as outbox:
        for number in range(2000):
            _accept_soon(outbox, promised(f"r{number:04}", text="long " * 60))
        outbox._move()
        with path.open("r+b") as file:  # all but its first page
            file.seek(4096)
            file.write(b"\xff" * (path.stat().st_size - 4096))
        outbox._file._driver.execute("PRAGMA shrink_memory")
        with caplog.at_level(logging.ERROR):
            outbox.finish(promised("r0500"), b"record", released.set)
            outbox._move()

        assert released.is_set()
        outbox.check()
    assert "is damaged" in caplog.text
    assert len([one for one in tmp_path.glob("*.damaged-*") if one.suffix.startswith(".damaged")]) >= 1
    with outbox_file(path, max_remembered=10) as file:
        assert [one.request_id for one in file.load().unrecorded] == ["r0500"]


@pytest.mark.parametrize("words", [10, 100_000])
def test_what_is_written_is_there_after_a_kill_whatever_its_size(tmp_path: Path, words: int) -> None:
    path, sync = tmp_path / "outbox.sqlite", "written"
    code = (
        "from device_agent.disk_outbox import *\nfrom tests.device.test_outbox import promised\nimport time, sys\n"
        f"outbox = DiskOutbox(Path({str(path)!r}), sync={sync!r}, max_remembered=10, on_crash=print).__enter__()\n"
        f"for name in 'abc': outbox.accept(promised(name, text='word ' * {words}))\n"
        "outbox.finish(promised('a'), b'record a', print)\noutbox.finish(promised('b'), b'record b', print)\n"
        "outbox._move(); outbox.forget(['b']); outbox.accept(promised('d'))\n"
        "while outbox._forgotten: time.sleep(0.01)\n"
        "print('written', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        while (line := process.stdout.readline()) != b"written\n":
            assert line == b"\n"
        os.kill(process.pid, signal.SIGKILL)

    with DiskOutbox(path, sync="written", max_remembered=10, on_crash=pytest.fail) as outbox:
        assert [one.request_id for one in outbox.contents.unanswered] == ["c", "d"]
        assert [one.record for one in outbox.contents.unrecorded] == [b"record a"]


def test_far_more_than_the_frames_hold_is_kept(tmp_path: Path) -> None:
    path, count = tmp_path / "outbox.sqlite", 6000
    with DiskOutbox(path, sync="written", max_remembered=10, on_crash=pytest.fail) as outbox:
        for number in range(count):
            one = promised(f"r{number:05}")
            _accept_soon(outbox, one)
            outbox.finish(one, b"record" * 80, lambda: None)
        assert len(outbox._steps) < 2 * count

    with outbox_file(path, max_remembered=10) as file:
        assert len(file.load().unrecorded) == count
