"""Frames are read back up to a torn end; two files take turns."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import StoreError
from common.store.frames import CAPACITY_BYTES, Frames


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox.sqlite"


def leftover(path: Path) -> list[bytes]:
    with Frames(path) as frames:
        return frames.leftover()


def test_what_was_appended_is_read_back_in_order_over_both_files(path: Path) -> None:
    with Frames(path) as frames:
        frames.clear()
        frames.append(b"one")
        frames.switch()
        frames.append(b"two")
        frames.sync()

    assert leftover(path) == [b"one", b"two"]


def test_an_emptied_file_says_nothing_though_its_bytes_are_still_there(path: Path) -> None:
    with Frames(path) as frames:
        frames.clear()
        for number in range(100):
            frames.append(b"first round %d" % number)
        frames.switch()
        frames.append(b"second")
        frames.empty_other()
        frames.switch()
        frames.append(b"third")

    assert leftover(path) == [b"second", b"third"]
    with Frames(path) as frames:
        frames.clear()
    assert leftover(path) == []


@pytest.mark.parametrize("damage", [b"\0", b"\xff" * 400])
def test_a_torn_end_is_left_out(path: Path, damage: bytes) -> None:
    with Frames(path) as frames:
        frames.clear()
        for number in range(3):
            frames.append(b"frame %d" % number)
    target = next(file for file in path.parent.glob("*-frames*") if b"frame 2" in file.read_bytes())
    with target.open("r+b") as file:
        file.seek(target.read_bytes().index(b"frame 2") + 3)
        file.write(damage)

    assert leftover(path) == [b"frame 0", b"frame 1"]


def test_there_is_an_end_and_a_reserve_for_what_has_begun(path: Path) -> None:
    with Frames(path) as frames:
        frames.clear()
        begun = sum(frames.append(bytes(1000), is_begin=True) for _ in range(2000))
        ended = sum(frames.append(bytes(1000)) for _ in range(2000))

        assert frames.is_filling
        assert begun * 1008 < CAPACITY_BYTES * 3 / 4 < (begun + 1) * 1008 + 16
        assert (begun + ended) * 1008 < CAPACITY_BYTES < (begun + ended + 1) * 1008 + 16
    assert len(leftover(path)) == begun + ended


def test_frames_survive_a_kill(path: Path) -> None:
    code = (
        "from common.store.frames import *\nfrom pathlib import Path\nimport time\n"
        f"frames = Frames(Path({str(path)!r})); frames.clear()\n"
        "for n in range(50): frames.append(b'frame %d' % n)\n"
        "print('written', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"written\n"
        os.kill(process.pid, signal.SIGKILL)

    assert len(leftover(path)) == 50


def test_a_file_that_is_something_else_holds_no_frames(path: Path) -> None:
    Path(f"{path}-frames0").write_bytes(b"Dear reader, " * 1000)

    assert leftover(path) == []


def test_a_folder_that_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="its frames cannot be written"):
        Frames(tmp_path / "none" / "outbox")
