"""Texts into the device's stdin, answers from its stdout."""

import subprocess
import threading
import time
from collections.abc import Sequence

from common.errors import CrashError
from common.wire.documents import Input, encode_document


def stream(
    device: subprocess.Popen[bytes], texts: Sequence[Input], *, rate: float | None, shows_progress: bool
) -> float:
    """Ask everything and wait for the device to finish; give the seconds from the first text to the last answer.

    Raises:
        CrashError: The device ended before it had answered everything.
    """
    leaving = threading.Event()
    feeder = threading.Thread(target=_feed, args=(device, texts, rate, leaving), name="feeder")
    started = time.monotonic()
    feeder.start()
    try:
        answered = _count_answers(device, len(texts), shows_progress=shows_progress)
    except BaseException:
        device.terminate()  # a full pipe would keep the feeder waiting
        raise
    finally:
        leaving.set()
        feeder.join()
    elapsed_s = time.monotonic() - started
    status = device.wait()
    if status != 0 or answered < len(texts):
        raise CrashError(f"the device ended with status {status} after {answered} of {len(texts)} answers")
    return elapsed_s


def _feed(
    device: subprocess.Popen[bytes], texts: Sequence[Input], rate: float | None, leaving: threading.Event
) -> None:
    if device.stdin is None:
        raise AssertionError("the device was started without a pipe")
    started = time.monotonic()
    try:
        with device.stdin as pipe:
            for position, text in enumerate(texts):
                if rate and leaving.wait(max(0.0, started + position / rate - time.monotonic())):
                    return
                pipe.write(encode_document(text) + b"\n")
                if rate:
                    pipe.flush()
    except BrokenPipeError:
        return  # the device is gone; whoever reads its answers says so


def _count_answers(device: subprocess.Popen[bytes], total: int, *, shows_progress: bool) -> int:
    from rich.console import Console  # noqa: PLC0415 - loaded only where it is used
    from rich.progress import track  # noqa: PLC0415

    if device.stdout is None:
        raise AssertionError("the device was started without a pipe")
    answers = track(device.stdout, "answering", total=total, console=Console(stderr=True), disable=not shows_progress)
    return sum(1 for _ in answers)
